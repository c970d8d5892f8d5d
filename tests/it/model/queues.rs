//! The model: all queues as plain values, and a simple version of each script.
//!
//! The model settles the jobs of a batch and moves messages one after another, and makes each change at once. A script
//! may use any order that has the same result.

use std::collections::{BTreeMap, BTreeSet};

use super::call::{
    Batch, Call, INBOX, Job, Message, QUEUES, REJECTED, Settlement, TRACKING, replayed_payload,
};
use super::queue::{History, Queue, intended_wait_ms, milliseconds, seconds, whole_milliseconds};
use super::snapshot::{Answer, Content, Fields, Snapshot, list, number, text};

/// All queues and streams.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) queues: BTreeMap<&'static str, Queue>,
    /// Number of the last batch, by its key.
    last_batches: BTreeMap<String, u64>,
    /// None before the first message; Redis keeps the key of an emptied stream.
    inbox: Option<Vec<(String, Fields)>>,
    rejected: Vec<Fields>,
    /// Orders cancelled by a message.
    cancelled: BTreeSet<String>,
    pub(super) now: f64,
    /// Events that happened; the test fails if the sequences never reach one of them.
    pub(super) happened: BTreeSet<&'static str>,
}

/// The jobs that a call of the intake schedules at its end.
#[derive(Default)]
struct Due {
    jobs: Vec<DueJob>,
    /// Tracked orders, and the new wait of their jobs in ms.
    reschedules: Vec<(String, f64)>,
}

struct DueJob {
    queue: &'static str,
    id: String,
    delay_ms: f64,
}

/// Expected answer and wake-ups of a call.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) answer: Answer,
    /// Channels that must have a wake-up; without it workers would be late for a job.
    pub(super) must_wake: BTreeSet<String>,
    /// Channels that may have a wake-up.
    pub(super) may_wake: BTreeSet<String>,
}

impl Model {
    pub(super) fn queue(&mut self, name: &'static str) -> &mut Queue {
        self.queues.entry(name).or_default()
    }

    /// Runs a call at this time in seconds. If the result depends on the order in which Redis reads a set, the model
    /// takes that order from `found`.
    pub(super) fn run(&mut self, call: &Call, now: f64, found: &Snapshot) -> Expected {
        self.now = now;
        for name in QUEUES {
            self.queue(name).begin();
        }
        let answer = match call {
            Call::Intake { messages } => self.intake(messages),
            Call::Restore { queues, jobs } => self.restore(queues, jobs),
            Call::Claim { queue, worker, limit, holds } => self.claim(queue, worker, *limit, *holds),
            Call::Settle(batch) => self.settle(batch),
            Call::Heartbeat { lease_ms, pause_ms, clock_was_set, reports } => {
                let times = (seconds(*lease_ms), seconds(*pause_ms));
                let report = |report| self.report(report, times, *clock_was_set);
                let reports = reports.iter().map(report).collect();
                Answer::List(vec![Answer::Number(whole_milliseconds(now)), Answer::List(reports)])
            }
            Call::Reap { queue, lease_ms, limit } => self.reap(queue, seconds(*lease_ms), *limit, found),
            Call::Acquit { queue, worker, ids } => {
                let queue = self.queue(queue);
                let acquitted = ids.iter().filter(|id| queue.acquit(id, worker)).count();
                self.happened.extend((acquitted > 0).then_some("acquitted"));
                number(acquitted)
            }
            Call::Identify { queues, worker, jobs } => self.identify(queues, worker, jobs),
            Call::PutRight { queue, from, limit } => self.put_right(queue, from, *limit),
            Call::Hasten { queues, within_ms, ids } => self.hasten(queues, seconds(*within_ms), ids),
            Call::GiveBack { queue, worker, ids } => {
                let queue = self.queue(queue);
                let owned: Vec<_> = ids.iter().filter(|id| queue.end_claim(worker, id)).collect();
                for id in &owned {
                    queue.give_back(id);
                }
                number(owned.len())
            }
            Call::Leave { queue, last_batch, worker } => {
                self.last_batches.remove(last_batch);
                self.queue(queue).leave(worker, &list(found, &format!("{queue}:active")))
            }
            Call::Replay { queues, id } => text(self.replay(queues, id)),
            Call::Discard { queue, id } => {
                let dead = self.queue(queue).dead.contains(id);
                self.queue(queue).delete_dead_letter(id);
                self.happened.extend(dead.then_some("discarded"));
                number(usize::from(dead))
            }
            Call::Add(message) => {
                let entry = (message.id.clone(), Fields::from([message.field()]));
                self.inbox.get_or_insert_default().push(entry);
                Answer::Nothing
            }
            Call::Push { job, due_seconds, attempts } => {
                #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
                self.queue(job.queue).push_as_apalis(job, *due_seconds as f64, attempts);
                Answer::Nothing
            }
            Call::Id { queue, id } => {
                self.queue(queue).active.push_back(id.clone());
                Answer::Nothing
            }
            Call::Text { queue, id } => {
                self.queue(queue).histories.insert(id.clone(), History::Text("not a hash".to_owned()));
                Answer::Nothing
            }
        };
        let waking = |wakes: fn(&Queue) -> bool| {
            let woken = self.queues.iter().filter(|(_, queue)| wakes(queue));
            woken.map(|(name, _)| format!("{name}:wake")).collect()
        };
        Expected { answer, must_wake: waking(Queue::must_wake), may_wake: waking(Queue::may_wake) }
    }

    fn intake(&mut self, messages: &[Message]) -> Answer {
        let oldest = self.inbox.as_ref().and_then(|inbox| inbox.first());
        if oldest.is_none_or(|(id, _)| *id != messages[0].id) {
            self.happened.insert("gone");
            return Answer::List(Vec::new());
        }
        let mut due = Due::default();
        let verdicts: Vec<_> = messages.iter().map(|message| self.move_message(message, &mut due)).collect();
        let now = self.now;
        for (order, delay_ms) in due.reschedules {
            for job in due.jobs.iter_mut().filter(|job| job.id == order) {
                job.delay_ms = job.delay_ms.min(delay_ms);
            }
            for queue in TRACKING {
                let queue = self.queue(queue);
                if queue.scheduled.remove(&order).is_some() {
                    queue.schedule(&order, delay_ms, now);
                }
            }
        }
        for job in due.jobs {
            self.queue(job.queue).schedule(&job.id, job.delay_ms, now);
        }
        self.happened.extend(&verdicts);
        Answer::List(verdicts.iter().map(|verdict| text(verdict.split(' ').next().unwrap())).collect())
    }

    fn move_message(&mut self, message: &Message, due: &mut Due) -> &'static str {
        let (id, mut fields) = self.inbox.as_mut().unwrap().remove(0);
        let job = match &message.verdict {
            Ok(job) => job,
            Err(reason) => {
                fields.extend([("id".to_owned(), id), ("reason".to_owned(), reason.clone())]);
                self.rejected.push(fields);
                return "rejected";
            }
        };
        let tracks = !["correct", "cancel"].contains(&message.kind);
        if tracks {
            for queue in TRACKING {
                self.queue(queue).delete_dead_letter(&job.id);
            }
        }
        let held = |queue: &Queue| queue.data.contains_key(&job.id) && !queue.dead.contains(&job.id);
        if TRACKING.iter().any(|queue| held(self.queue(queue))) {
            return self.pass_on(message, &job.id, due);
        }
        // The delay counts from the time in the id of the message, or from now if that time is in the future.
        let added_ms: f64 = id.split('-').next().unwrap().parse().unwrap();
        let waited_ms = f64::max(0.0, self.now * 1000.0 - added_ms);
        let delay_ms = f64::max(0.0, milliseconds(job.delay_ms) - waited_ms);
        let id = if message.is_about_a_known_order() { message.tracked_job().id } else { job.id.clone() };
        self.queue(job.queue).data.insert(id.clone(), job.payload.clone());
        due.jobs.push(DueJob { queue: job.queue, id, delay_ms });
        if job.delay_ms == 0 { "accepted" } else { "accepted with delay" }
    }

    /// Passes a message on to an order that is already tracked.
    fn pass_on(&mut self, message: &Message, order: &str, due: &mut Due) -> &'static str {
        let kind = message.kind;
        if kind == "repeat" && !self.cancelled.contains(order) {
            return "duplicate";
        }
        if kind == "cancel" {
            self.cancelled.insert(order.to_owned());
        } else if kind != "correct" {
            self.cancelled.remove(order);
        }
        let delay_ms = if kind == "cancel" { 1000.0 } else { 0.0 };
        if kind == "cancel" || kind == "check" {
            match due.reschedules.iter_mut().find(|(id, _)| id == order) {
                Some(reschedule) => reschedule.1 = delay_ms,
                None => due.reschedules.push((order.to_owned(), delay_ms)),
            }
        }
        let Job { queue, id, payload, .. } = message.tracked_job();
        self.queue(queue).data.insert(id.clone(), payload);
        due.jobs.push(DueJob { queue, id, delay_ms: 0.0 });
        "passed-on"
    }

    fn restore(&mut self, queues: &[&'static str], jobs: &[Job]) -> Answer {
        let mut restored = 0;
        for job in jobs {
            let held =
                queues.iter().chain([&job.queue]).any(|queue| self.queue(queue).data.contains_key(&job.id));
            if !held {
                self.happened.insert("restored");
                self.push(job);
                if job.failed_attempts() > 0 {
                    self.queue(job.queue).set_field(&job.id, "attempts", &job.failed_attempts().to_string());
                }
                restored += 1;
            }
        }
        Answer::List(vec![number(restored), number(0)])
    }

    fn identify(&mut self, queues: &[&'static str], worker: &str, jobs: &[(String, String)]) -> Answer {
        let (now, mut dropped) = (self.now, 0);
        for (claimed, id) in jobs {
            if !self.queue(queues[0]).inflight.get(worker).is_some_and(|ids| ids.contains(claimed)) {
                continue;
            }
            let is_tracked = |queue: &Queue| queue.data.contains_key(id) && !queue.dead.contains(id);
            if queues.iter().any(|queue| is_tracked(self.queue(queue))) {
                self.happened.insert("duplicate of another program dropped");
                dropped += 1;
            } else {
                self.happened.insert("job of another program given its id");
                let payload = self.queue(queues[0]).data.get(claimed).cloned();
                for queue in queues {
                    self.queue(queue).delete_dead_letter(id);
                }
                let queue = self.queue(queues[0]);
                queue.histories.remove(id);
                queue
                    .data
                    .insert(id.clone(), payload.expect("only a job with a payload is given another id"));
                queue.schedule(id, 0.0, now);
            }
            let queue = self.queue(queues[0]);
            queue.end_claim(worker, claimed);
            queue.data.remove(claimed);
            queue.histories.remove(claimed);
        }
        number(dropped)
    }

    fn put_right(&mut self, queue: &'static str, from: &str, limit: usize) -> Answer {
        let now = self.now;
        let queue = self.queue(queue);
        let mut due: Vec<(f64, String)> =
            queue.scheduled.iter().map(|(id, due)| (*due, id.clone())).collect();
        due.sort_by(|one, other| one.partial_cmp(other).unwrap());
        if let Some(after) = from.strip_prefix('(') {
            let after: f64 = after.parse().unwrap();
            due.retain(|(due, _)| *due > after);
        } else if let Ok(from) = from.parse::<f64>() {
            due.retain(|(due, _)| *due >= from);
        }
        let full = due.len() >= limit;
        let (mut moved, mut next) = (0, String::new());
        for (due, id) in due.into_iter().take(limit) {
            let intended_ms = intended_wait_ms(due).filter(|ms| (due - now) * 1000.0 > ms + 5.0);
            if let Some(intended_ms) = intended_ms {
                queue.schedule(&id, intended_ms, now);
                moved += 1;
            }
            next = if intended_ms.is_some() { format!("{due}") } else { format!("({due}") };
        }
        self.happened.extend((moved > 0).then_some("wait put right"));
        Answer::List(vec![text(if full { &next } else { "" }), number(moved)])
    }

    fn hasten(&mut self, queues: &[&'static str], within: f64, ids: &[String]) -> Answer {
        let (now, mut hastened) = (self.now, 0);
        for id in ids {
            for queue in queues {
                let queue = self.queue(queue);
                if queue.scheduled.get(id).is_some_and(|due| *due > now + within) {
                    queue.scheduled.remove(id);
                    queue.schedule(id, 0.0, now);
                    hastened += 1;
                }
            }
        }
        self.happened.extend((hastened > 0).then_some("hastened"));
        number(hastened)
    }

    fn replay(&mut self, queues: &[&'static str], id: &str) -> &'static str {
        let now = self.now;
        let queue = queues[0];
        let verdict = if !self.queue(queue).dead.contains(id) {
            "gone"
        } else if queues[1..].iter().any(|other| {
            let other = self.queue(other);
            other.delete_dead_letter(id);
            other.data.contains_key(id)
        }) {
            "tracked"
        } else {
            let queue = self.queue(queue);
            queue.dead.remove(id);
            queue.histories.remove(id);
            if !replayed_payload(id).is_empty() {
                queue.data.insert(id.to_owned(), replayed_payload(id));
            }
            queue.schedule(id, 0.0, now);
            "replayed"
        };
        self.happened.insert(match verdict {
            "gone" => "replay of a job that is no dead letter",
            "tracked" => "replay of a job tracked in another queue",
            _ => "replayed",
        });
        verdict
    }

    fn push(&mut self, job: &Job) {
        let now = self.now;
        let queue = self.queue(job.queue);
        queue.delete_dead_letter(&job.id);
        if !queue.data.contains_key(&job.id) {
            queue.data.insert(job.id.clone(), job.payload.clone());
            queue.schedule(&job.id, milliseconds(job.delay_ms), now);
        }
    }

    fn settle(&mut self, batch: &Batch) -> Answer {
        let last = self.last_batches.entry(batch.number_key.clone()).or_default();
        if *last >= batch.number {
            let event = if *last == batch.number { "batch sent again" } else { "late batch" };
            self.happened.insert(event);
            return number(0);
        }
        *last = batch.number;
        let (mut not_owned, mut ended) = (0, BTreeSet::new());
        for settlement in &batch.settlements {
            // A job that is in a batch twice is settled once.
            let again = ended.contains(&settlement.id);
            if !again && self.queue(batch.queue).end_claim(&batch.worker, &settlement.id) {
                self.happened.insert(settlement.action);
                ended.insert(&settlement.id);
                self.settle_one(batch, settlement);
            } else if !again
                && settlement.action == "complete"
                && self.queue(batch.queue).dead_lettered_by_queue(&settlement.id)
            {
                self.happened.insert("complete of a job that was dead-lettered meanwhile");
                ended.insert(&settlement.id);
                self.queue(batch.queue).dead.remove(&settlement.id);
                self.settle_one(batch, settlement);
            } else {
                self.happened.insert("settlement of a job not owned");
                not_owned += 1;
            }
        }
        number(not_owned)
    }

    fn settle_one(&mut self, batch: &Batch, settlement: &Settlement) {
        let Settlement { id, action, delay_ms, reason, payload, next } = settlement;
        let mut replaced = false;
        for job in next {
            if job.queue == batch.queue && job.id == *id {
                let now = self.now;
                let queue = self.queue(batch.queue);
                queue.data.insert(id.clone(), job.payload.clone());
                queue.schedule(id, milliseconds(job.delay_ms), now);
                replaced = true;
            } else {
                self.push(job);
            }
        }
        let now = self.now;
        let queue = self.queues.get_mut(batch.queue).unwrap();
        if *action == "complete" {
            if !replaced {
                queue.data.remove(id);
            }
            queue.histories.remove(id);
            return;
        }
        if !payload.is_empty() {
            queue.data.insert(id.clone(), payload.clone());
        }
        match *action {
            "dead-letter" | "condemned" => queue.dead_letter(id, reason, *action == "condemned", now),
            "release" => queue.give_back(id),
            "crash" => {
                if queue.crash(id, batch.max_crashes, now) {
                    self.happened.insert("poison by a crash");
                }
            }
            "fault" => {
                queue.increment(id, "faults");
                queue.set_field(id, "last_error", reason);
                queue.schedule(id, milliseconds(*delay_ms), now);
            }
            _ => {
                if *action == "retry" {
                    queue.reset_counts(id);
                    queue.increment(id, "attempts");
                    queue.set_field(id, "last_error", reason);
                }
                queue.schedule(id, milliseconds(*delay_ms), now);
            }
        }
    }

    /// Copies the due times from Redis, after they were compared. If a delay counts from a message, the last bit of the
    /// due time depends on the millisecond in which the script ran.
    pub(super) fn adopt_due_times(&mut self, found: &Snapshot) {
        for (name, queue) in &mut self.queues {
            if let Some(Content::Scores(scores)) = found.get(&format!("{name}:scheduled")) {
                queue.scheduled.clone_from(scores);
            }
        }
    }

    /// All keys that Redis should hold.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut keys = Snapshot::new();
        for (name, queue) in &self.queues {
            queue.add_keys(name, &mut keys);
        }
        for (key, number) in &self.last_batches {
            keys.insert(key.clone(), Content::Text(number.to_string()));
        }
        for order in &self.cancelled {
            keys.insert(format!("{}:cancelled:{order}", TRACKING[0]), Content::Text("1".to_owned()));
        }
        let rejected = self.rejected.iter().map(|fields| (String::new(), fields.clone())).collect();
        keys.insert(REJECTED.to_owned(), Content::Stream(rejected));
        // Redis keeps no empty key, except a stream.
        keys.retain(|_, content| match content {
            Content::Text(_) => true,
            Content::List(ids) => !ids.is_empty(),
            Content::Set(ids) => !ids.is_empty(),
            Content::Scores(scores) => !scores.is_empty(),
            Content::Hash(fields) => !fields.is_empty(),
            Content::Stream(entries) => !entries.is_empty(),
        });
        if let Some(inbox) = &self.inbox {
            keys.insert(INBOX.to_owned(), Content::Stream(inbox.clone()));
        }
        keys
    }
}
