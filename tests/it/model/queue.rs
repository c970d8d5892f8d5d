//! One queue as plain values, and the few moves of which everything that happens to it consists.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::call::Job;
use super::snapshot::{Answer, Content, Fields, Snapshot, number};

/// What is known of a job's past.
#[derive(Debug, Clone)]
pub(super) enum History {
    Fields(Fields),
    /// A foreign program put a text there.
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
    made_ready: bool,
    /// When the jobs that this call scheduled are due, by id.
    made_wait: BTreeMap<String, f64>,
    /// When the first was due before this call.
    head_before: Option<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "delays of hours at most")]
pub(super) fn milliseconds(ms: u64) -> f64 {
    ms as f64
}

pub(super) fn seconds(ms: u64) -> f64 {
    milliseconds(ms) / 1000.0
}

/// When a job is due that waits from now on: to the millisecond, and behind that, in microseconds, the power of 1.025
/// that its wait in ms does not exceed.
fn due_in(delay_ms: f64, now: f64) -> f64 {
    let power = (delay_ms.ln() / 1.025_f64.ln()).ceil().clamp(1.0, 999.0);
    ((now * 1000.0 + delay_ms + 0.5).floor() * 1000.0 + power) / 1_000_000.0
}

/// How long a job with this due time was meant to wait at most, in ms, where its due time says so.
pub(super) fn meant_wait_ms(due: f64) -> Option<f64> {
    let power = (due * 1_000_000.0 + 0.5).floor() % 1000.0;
    (power > 0.0).then(|| 1.025_f64.powf(power).floor())
}

/// The same back again.
#[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century are far below 2^53")]
pub(super) fn whole_milliseconds(seconds: f64) -> i64 {
    (seconds * 1000.0).round() as i64
}

impl Queue {
    /// Before a call.
    pub(super) fn begin(&mut self) {
        (self.made_ready, self.head_before) = (false, self.head());
        self.made_wait.clear();
    }

    /// Whether a worker would oversleep without word of what this call did.
    pub(super) fn must_wake(&self) -> bool {
        let earlier = |due: &f64| self.head_before.is_none_or(|before| *due < before);
        self.made_ready || self.made_wait.values().any(earlier)
    }

    /// Whether there is anything to send word of.
    pub(super) fn may_wake(&self) -> bool {
        self.made_ready || self.made_wait.values().any(|due| Some(*due) == self.head())
    }

    pub(super) fn head(&self) -> Option<f64> {
        self.scheduled.values().copied().min_by(f64::total_cmp)
    }

    /// Milliseconds until the first scheduled job, rounded up, or -1.
    pub(super) fn next_due_ms(&self, now: f64) -> i64 {
        #[expect(clippy::cast_possible_truncation, reason = "hours at most")]
        self.head().map_or(-1, |due| f64::max(0.0, ((due - now) * 1000.0).ceil()) as i64)
    }

    pub(super) fn schedule(&mut self, id: &str, delay_ms: f64, now: f64) {
        if delay_ms <= 0.0 {
            self.active.push_back(id.to_owned());
            self.made_ready = true;
        } else {
            let due = due_in(delay_ms, now);
            self.scheduled.insert(id.to_owned(), due);
            self.made_wait.insert(id.to_owned(), due);
        }
    }

    pub(super) fn give_back(&mut self, id: &str) {
        self.active.push_front(id.to_owned());
        self.made_ready = true;
    }

    /// Takes a job away from a worker; returns whether it had it.
    pub(super) fn lose(&mut self, worker: &str, id: &str) -> bool {
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

    pub(super) fn forget_dead_letter(&mut self, id: &str) {
        if self.dead.remove(id) {
            self.data.remove(id);
            self.histories.remove(id);
        }
    }

    pub(super) fn dead_letter(&mut self, id: &str, reason: &str, by_queue: bool, now: f64) {
        if by_queue {
            self.note(id, "dead_lettered_by", "queue");
        }
        self.dead.insert(id.to_owned());
        self.note(id, "status", "Killed");
        self.note(id, "reason", reason);
        self.note(id, "dead_at", &now.to_string());
    }

    /// Returns whether the job is poison and dead-lettered.
    pub(super) fn crash(&mut self, id: &str, most_crashes: i64, now: f64) -> bool {
        let crashes = self.count(id, "crashes");
        let poison = crashes.filter(|crashes| *crashes >= most_crashes);
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

    pub(super) fn note(&mut self, id: &str, name: &str, value: &str) {
        if let Some(fields) = self.history(id) {
            fields.insert(name.to_owned(), value.to_owned());
        }
    }

    /// What cannot be counted on is left as it is.
    pub(super) fn count(&mut self, id: &str, name: &str) -> Option<i64> {
        let fields = self.history(id)?;
        let count = fields.get(name).map_or("0", String::as_str).parse::<i64>().ok()? + 1;
        fields.insert(name.to_owned(), count.to_string());
        Some(count)
    }

    pub(super) fn forget_counts(&mut self, id: &str) {
        if let Some(fields) = self.history(id) {
            fields.retain(|name, _| name != "crashes" && name != "faults" && name != "lost_with");
        }
    }

    /// It was lost with this worker; with which first is what counts.
    pub(super) fn suspect(&mut self, id: &str, worker: &str) {
        if let Some(fields) = self.history(id) {
            fields.entry("lost_with".to_owned()).or_insert_with(|| worker.to_owned());
        }
    }

    /// Returns whether it was a suspect because of this worker.
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

    /// Whether it is a dead letter by the queue's own doing.
    pub(super) fn buried_itself(&self, id: &str) -> bool {
        let Some(History::Fields(fields)) = self.histories.get(id) else { return false };
        self.dead.contains(id) && fields.contains_key("dead_lettered_by")
    }

    /// Adds its keys, empty ones too.
    pub(super) fn tell(&self, name: &str, keys: &mut Snapshot) {
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
