//! One queue as plain values, and its basic changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::call::Job;
use super::snapshot::{Answer, Content, Fields, Snapshot, number};

/// Hash of the past attempts and errors of a job.
#[derive(Debug, Clone)]
pub(super) enum History {
    Fields(Fields),
    /// Another program wrote a text to the key.
    Text(String),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    pub(super) active: VecDeque<String>,
    pub(super) scheduled: BTreeMap<String, f64>,
    pub(super) data: BTreeMap<String, String>,
    pub(super) histories: BTreeMap<String, History>,
    pub(super) inflight: BTreeMap<String, BTreeSet<String>>,
    pub(super) workers: BTreeMap<String, f64>,
    pub(super) dead: BTreeSet<String>,
    /// Whether this call made a job due at once.
    made_due: bool,
    /// Due times of the jobs that this call scheduled, by id.
    newly_scheduled: BTreeMap<String, f64>,
    /// Due time of the first scheduled job before this call.
    first_due_before: Option<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "delays of hours at most")]
pub(super) fn milliseconds(ms: u64) -> f64 {
    ms as f64
}

pub(super) fn seconds(ms: u64) -> f64 {
    milliseconds(ms) / 1000.0
}

/// Due time of a job that waits from now on. Its microseconds are the exponent p for which the wait is at most
/// 1.025 ^ p ms (see `layout.lua`).
fn due_in(delay_ms: f64, now: f64) -> f64 {
    let power = (delay_ms.ln() / 1.025_f64.ln()).ceil().clamp(1.0, 999.0);
    ((now * 1000.0 + delay_ms + 0.5).floor() * 1000.0 + power) / 1_000_000.0
}

/// Longest intended wait of a job with this due time in ms; none if another program chose the due time.
pub(super) fn intended_wait_ms(due: f64) -> Option<f64> {
    let power = (due * 1_000_000.0 + 0.5).floor() % 1000.0;
    (power > 0.0).then(|| 1.025_f64.powf(power).floor())
}

/// Milliseconds of a time in seconds.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century are far below 2^53")]
pub(super) fn whole_milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

impl Queue {
    /// Begins a new call.
    pub(super) fn begin(&mut self) {
        (self.made_due, self.first_due_before) = (false, self.first_due());
        self.newly_scheduled.clear();
    }

    /// Whether workers would be late for a job without a wake-up by this call.
    pub(super) fn must_wake(&self) -> bool {
        let earlier = |due: &f64| self.first_due_before.is_none_or(|before| *due < before);
        self.made_due || self.newly_scheduled.values().any(earlier)
    }

    /// Whether this call may wake the workers.
    pub(super) fn may_wake(&self) -> bool {
        self.made_due || self.newly_scheduled.values().any(|due| Some(*due) == self.first_due())
    }

    pub(super) fn first_due(&self) -> Option<f64> {
        self.scheduled.values().copied().min_by(f64::total_cmp)
    }

    /// Milliseconds until the first scheduled job, rounded up, or -1 without one.
    pub(super) fn next_due_ms(&self, now: f64) -> i64 {
        #[expect(clippy::cast_possible_truncation, reason = "hours at most")]
        self.first_due().map_or(-1, |due| f64::max(0.0, ((due - now) * 1000.0).ceil()) as i64)
    }

    pub(super) fn schedule(&mut self, id: &str, delay_ms: f64, now: f64) {
        if delay_ms <= 0.0 {
            self.active.push_back(id.to_owned());
            self.made_due = true;
        } else {
            let due = due_in(delay_ms, now);
            self.scheduled.insert(id.to_owned(), due);
            self.newly_scheduled.insert(id.to_owned(), due);
        }
    }

    pub(super) fn give_back(&mut self, id: &str) {
        self.active.push_front(id.to_owned());
        self.made_due = true;
    }

    /// Ends the claim of a worker on a job. Returns whether there was one.
    pub(super) fn end_claim(&mut self, worker: &str, id: &str) -> bool {
        self.inflight.get_mut(worker).is_some_and(|ids| ids.remove(id))
    }

    pub(super) fn leave(&mut self, worker: &str, active_found: &[String]) -> Answer {
        let mut held = self.inflight.remove(worker).unwrap_or_default();
        let given = held.len();
        let ordered: Vec<String> =
            active_found.iter().take(given).filter(|id| held.remove(*id)).cloned().collect();
        for id in ordered.iter().chain(&held).rev() {
            self.give_back(id);
        }
        self.workers.remove(worker);
        number(given)
    }

    pub(super) fn push_as_apalis(&mut self, job: &Job, due: f64, attempts: &str) {
        self.data.insert(job.id.clone(), job.payload.clone());
        self.scheduled.insert(job.id.clone(), due);
        let fields = [("attempts", attempts), ("status", "Pending")];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.histories.insert(job.id.clone(), History::Fields(Fields::from(fields)));
    }

    pub(super) fn delete_dead_letter(&mut self, id: &str) {
        if self.dead.remove(id) {
            self.data.remove(id);
            self.histories.remove(id);
        }
    }

    pub(super) fn dead_letter(&mut self, id: &str, reason: &str, by_queue: bool, now: f64) {
        if by_queue {
            self.set_field(id, "dead_lettered_by", "queue");
        }
        self.dead.insert(id.to_owned());
        self.set_field(id, "status", "Killed");
        self.set_field(id, "reason", reason);
        self.set_field(id, "dead_at", &now.to_string());
    }

    /// Counts a crash. Returns whether the job is now dead-lettered as poison.
    pub(super) fn crash(&mut self, id: &str, max_crashes: i64, now: f64) -> bool {
        let crashes = self.increment(id, "crashes");
        let poison = crashes.filter(|crashes| *crashes >= max_crashes);
        match poison {
            Some(crashes) => {
                self.dead_letter(
                    id,
                    &format!("poison: the process that ran it died {crashes} times"),
                    true,
                    now,
                );
            }
            None => self.schedule(id, 0.0, now),
        }
        poison.is_some()
    }

    fn history(&mut self, id: &str) -> Option<&mut Fields> {
        let history = self.histories.entry(id.to_owned()).or_insert_with(|| History::Fields(Fields::new()));
        match history {
            History::Fields(fields) => Some(fields),
            History::Text(_) => None,
        }
    }

    pub(super) fn set_field(&mut self, id: &str, name: &str, value: &str) {
        if let Some(fields) = self.history(id) {
            fields.insert(name.to_owned(), value.to_owned());
        }
    }

    /// Adds 1 to a count of the history; a history or a count that cannot be read stays unchanged.
    pub(super) fn increment(&mut self, id: &str, name: &str) -> Option<i64> {
        let fields = self.history(id)?;
        let count = fields.get(name).map_or("0", String::as_str).parse::<i64>().ok()? + 1;
        fields.insert(name.to_owned(), count.to_string());
        Some(count)
    }

    pub(super) fn reset_counts(&mut self, id: &str) {
        if let Some(fields) = self.history(id) {
            fields.retain(|name, _| name != "crashes" && name != "faults" && name != "lost_with");
        }
    }

    /// Makes a job a suspect, lost with this worker. The first worker with which it was lost is kept.
    pub(super) fn suspect(&mut self, id: &str, worker: &str) {
        if let Some(fields) = self.history(id) {
            fields.entry("lost_with".to_owned()).or_insert_with(|| worker.to_owned());
        }
    }

    /// Clears a job that is a suspect because of this worker. Returns whether it was one.
    pub(super) fn acquit(&mut self, id: &str, worker: &str) -> bool {
        let Some(History::Fields(fields)) = self.histories.get_mut(id) else { return false };
        let acquitted = fields.get("lost_with").is_some_and(|lost_with| lost_with == worker);
        if acquitted {
            fields.remove("lost_with");
            // Redis keeps no empty hash.
            if fields.is_empty() {
                self.histories.remove(id);
            }
        }
        acquitted
    }

    /// Whether the queue, not the handler, made the job a dead letter.
    pub(super) fn dead_lettered_by_queue(&self, id: &str) -> bool {
        let Some(History::Fields(fields)) = self.histories.get(id) else { return false };
        self.dead.contains(id) && fields.contains_key("dead_lettered_by")
    }

    /// Adds the keys of the queue to a snapshot, also empty ones.
    pub(super) fn add_keys(&self, name: &str, keys: &mut Snapshot) {
        let mut put = |key: &str, content| keys.insert(format!("{name}:{key}"), content);
        put("active", Content::List(self.active.iter().cloned().collect()));
        put("scheduled", Content::Scores(self.scheduled.clone()));
        put("data", Content::Hash(self.data.clone()));
        put("workers", Content::Scores(self.workers.clone()));
        put("dead", Content::Set(self.dead.clone()));
        for (worker, ids) in &self.inflight {
            put(&format!("inflight:{worker}"), Content::Set(ids.clone()));
        }
        for (id, history) in &self.histories {
            let content = match history {
                History::Fields(fields) => Content::Hash(fields.clone()),
                History::Text(text) => Content::Text(text.clone()),
            };
            put(&format!("meta:{id}"), content);
        }
    }
}
