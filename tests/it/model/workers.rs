//! The part of the model for workers: claims, heartbeats, and the reaping of dead workers.

use std::collections::BTreeSet;

use super::call::Report;
use super::queue::History;
use super::queues::Model;
use super::snapshot::{Answer, Fields, Snapshot, list, members, number, text};

/// Maximum number of workers that one call reaps.
const MAX_REAPED_WORKERS: usize = 16;
/// Maximum number of workers whose leases a heartbeat looks at.
const MAX_LATE: usize = 8;
/// Counts of the history that a claim returns.
const COUNTS: [&str; 3] = ["attempts", "faults", "crashes"];

impl Model {
    pub(super) fn claim(&mut self, queue: &'static str, worker: &str, limit: usize, holds: bool) -> Answer {
        let now = self.now;
        let queue = self.queues.get_mut(queue).unwrap();
        if holds && !queue.workers.contains_key(worker) {
            self.happened.insert("claim of a worker presumed dead");
            return Answer::Nothing;
        }
        queue.workers.insert(worker.to_owned(), now);
        let mut due: Vec<(f64, String)> = queue
            .scheduled
            .iter()
            .map(|(id, due)| (*due, id.clone()))
            .filter(|(due, _)| *due <= now)
            .collect();
        due.sort_by(|one, other| one.partial_cmp(other).unwrap());
        for (_, id) in due.into_iter().take(limit) {
            queue.scheduled.remove(&id);
            queue.active.push_back(id);
        }
        let popped: Vec<String> = queue.active.drain(..limit.min(queue.active.len())).collect();
        let mut claimed = Vec::new();
        for id in popped {
            if queue.inflight.entry(worker.to_owned()).or_default().insert(id.clone()) {
                self.happened.insert("claim");
                claimed.push(id);
            } else {
                self.happened.insert("claim of an id that the worker holds");
            }
        }
        let payloads = claimed.iter().map(|id| queue.data.get(id).map_or(Answer::Nothing, |data| text(data)));
        let mut counts = Vec::new();
        if claimed.iter().any(|id| queue.histories.contains_key(id)) {
            self.happened.insert("claim of a job with a history");
            for id in &claimed {
                let none = Fields::new();
                let fields = match queue.histories.get(id) {
                    Some(History::Fields(fields)) => fields,
                    _ => &none,
                };
                let of = |count| text(fields.get(count).map_or("0", String::as_str));
                counts.extend(COUNTS.map(of));
                counts.push(text(if fields.contains_key("lost_with") { "1" } else { "0" }));
            }
        }
        Answer::List(vec![
            Answer::Number(queue.next_due_ms(now)),
            number(queue.active.len()),
            Answer::List(claimed.iter().map(|id| text(id)).collect()),
            Answer::List(payloads.collect()),
            Answer::List(counts),
        ])
    }

    pub(super) fn report(
        &mut self,
        report: &Report,
        (lease, pause): (f64, f64),
        clock_was_set: bool,
    ) -> Answer {
        let Report { queue, worker, holds } = report;
        let now = self.now;
        let queue = self.queues.get_mut(queue).unwrap();
        let lost = *holds && !queue.workers.contains_key(worker);
        if lost {
            self.happened.insert("heartbeat of a worker presumed dead");
        } else {
            queue.workers.insert(worker.clone(), now);
        }
        if clock_was_set {
            for seen in queue.workers.values_mut().filter(|seen| **seen > now) {
                *seen = now;
                self.happened.insert("lease from a clock that was ahead");
            }
        }
        let held = queue.inflight.get(worker).filter(|_| *holds).map_or(0, BTreeSet::len);
        let next_due = if queue.active.is_empty() { queue.next_due_ms(now) } else { 0 };
        let mut late: Vec<(f64, &String)> = queue.workers.iter().map(|(name, seen)| (*seen, name)).collect();
        late.retain(|(seen, _)| *seen <= now - lease + pause);
        late.sort_by(|one, other| one.partial_cmp(other).unwrap());
        let mut lefts = late.into_iter().take(MAX_LATE).filter_map(|(seen, worker)| {
            #[expect(clippy::cast_possible_truncation, reason = "seconds at most")]
            let left = f64::max(0.0, ((seen + lease - now) * 1000.0).ceil()) as i64;
            let holds = queue.inflight.get(worker).is_some_and(|held| !held.is_empty());
            (left == 0 || holds).then_some(left)
        });
        let expires = lefts.next();
        self.happened
            .extend(expires.filter(|ms| *ms > 0).map(|_| "lease of a worker with jobs soon expires"));
        let held = if lost { Answer::Number(-1) } else { number(held) };
        Answer::List(vec![held, Answer::Number(next_due), Answer::Number(expires.unwrap_or(-1))])
    }

    pub(super) fn reap(&mut self, name: &str, lease: f64, limit: usize, found: &Snapshot) -> Answer {
        let now = self.now;
        let queue = self.queues.get_mut(name).unwrap();
        let mut expired: Vec<(f64, String)> =
            queue.workers.iter().map(|(name, seen)| (*seen, name.clone())).collect();
        expired.retain(|(seen, _)| *seen <= now - lease);
        expired.sort_by(|one, other| one.partial_cmp(other).unwrap());
        if expired.len() > MAX_REAPED_WORKERS {
            self.happened.insert("more dead workers than one call reaps");
        }
        let mut moved = 0;
        let active_found = list(found, &format!("{name}:active"));
        for (_, worker) in expired.into_iter().take(MAX_REAPED_WORKERS) {
            let held = queue.inflight.remove(&worker).unwrap_or_default();
            let unmoved = members(found, &format!("{name}:inflight:{worker}"));
            let taken: BTreeSet<String> = held.difference(&unmoved).cloned().collect();
            // Redis chooses which jobs to move; their number is fixed.
            let count = limit.min(held.len());
            let mut taken =
                if taken.len() == count { taken } else { held.iter().take(count).cloned().collect() };
            let remaining: BTreeSet<String> = held.difference(&taken).cloned().collect();
            if remaining.is_empty() {
                queue.workers.remove(&worker);
            } else {
                self.happened.insert("reaped in part");
                queue.inflight.insert(worker.clone(), remaining);
            }
            // The jobs in the order in which Redis appended them to the list, then the others.
            let order: Vec<String> = active_found.iter().skip(queue.active.len()).cloned().collect();
            let ordered: Vec<String> =
                order.into_iter().take(taken.len()).filter(|id| taken.remove(id)).collect();
            for id in ordered.into_iter().chain(taken) {
                self.happened.insert("reaped");
                queue.suspect(&id, &worker);
                queue.schedule(&id, 0.0, now);
                moved += 1;
            }
        }
        number(moved)
    }
}
