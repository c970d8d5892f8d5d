//! One sequence of operations, carried out on Redis and in the model side by side.

use std::collections::BTreeSet;

use super::call::{Batch, Call, Job, Message, QUEUES, Report, Settlement, TRACKING};
use super::compare::compare;
use super::ops::{JOBS, Op, Pick};
use super::queues::Model;
use super::snapshot::{Answer, violation};
use super::system::System;

/// A worker that has not reported for this long is presumed dead.
const LEASE_MS: u64 = 5_000;
const PAUSE_MS: u64 = 3_000;
/// How far ahead of Redis the clock of a producer may be.
const AHEAD_MS: u64 = 700;
const MAX_WORKERS: usize = 9;
const CROWD: usize = 18;

/// A worker in its own view. Between two operations of its own it may be presumed dead, as if it were frozen.
struct Worker {
    queue: &'static str,
    /// Name under which it claims; it takes a new one when it learns that it was presumed dead.
    name: String,
    last_batch: String,
    /// The jobs it holds: the name under which each was claimed, and the id.
    held: Vec<(String, String)>,
    sent: Vec<Batch>,
    /// Names under which it was presumed dead.
    former_names: Vec<String>,
}

pub(super) struct Case<'a> {
    system: &'a mut System,
    model: Model,
    workers: Vec<Worker>,
    messages: Vec<Message>,
    /// Number of messages moved out of the inbox.
    moved: usize,
    last_message_ms: u64,
    /// Queues and ids of jobs that other programs have corrupted.
    corrupted: BTreeSet<(&'static str, String)>,
    /// Makes names, payloads and batch numbers unique.
    count: u64,
}

fn id(job: u8) -> String {
    // Redis sorts jobs of the same due time by these ids, so they may run in another order than they were pushed.
    char::from(b'a' + job % JOBS).to_string()
}

/// Ids of jobs; each bit of `jobs` stands for one.
fn ids(jobs: u8) -> Vec<String> {
    (0..JOBS).filter(|n| jobs >> n & 1 == 1).map(id).collect()
}

impl<'a> Case<'a> {
    pub(super) fn new(system: &'a mut System) -> Self {
        system.clear();
        let mut case = Self {
            system,
            model: Model::default(),
            workers: Vec::new(),
            messages: Vec::new(),
            moved: 0,
            last_message_ms: 0,
            corrupted: BTreeSet::new(),
            count: 0,
        };
        for queue in [0, 0, 0, 1, 1, 2] {
            case.start(QUEUES[queue]);
        }
        case
    }

    /// Runs all operations. Returns the events that happened, or how Redis and the model differ.
    pub(super) fn play(mut self, ops: &[Op]) -> Result<BTreeSet<&'static str>, String> {
        for (n, op) in ops.iter().enumerate() {
            self.step(op).map_err(|difference| format!("operation {n}, {op:?}:\n{difference}"))?;
        }
        Ok(self.model.happened)
    }

    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn start(&mut self, queue: &'static str) {
        if self.workers.len() < MAX_WORKERS {
            let name = format!("w{}", self.next());
            let last_batch = format!("{queue}:settled:{name}");
            self.workers.push(Worker {
                queue,
                name,
                last_batch,
                held: Vec::new(),
                sent: Vec::new(),
                former_names: Vec::new(),
            });
        }
    }

    fn job(&mut self, queue: &'static str, job: u8, delay_ms: u64) -> Job {
        let payload = format!("payload {}", self.next());
        Job { queue, id: id(job), payload, delay_ms: self.system.scaled(delay_ms) }
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Add { kind, recheck, job, delay_ms, bad, ahead } => {
                let now = self.system.now_ms() + if *ahead { self.system.scaled(AHEAD_MS) } else { 0 };
                self.last_message_ms = self.last_message_ms.max(now);
                let verdict = self.job(QUEUES[usize::from(*recheck)], *job, *delay_ms);
                let verdict = if *bad { Err("it is bad".to_owned()) } else { Ok(verdict) };
                let number = self.next();
                let id = format!("{}-{number}", self.last_message_ms);
                let message = Message { id, kind, verdict };
                self.messages.push(message.clone());
                self.call(&Call::Add(message))?;
            }
            Op::Intake { new, again } => {
                let end = self.messages.len().min(self.moved + new);
                let begin = self.moved.saturating_sub(*again);
                let messages = self.messages[begin..end].to_vec();
                self.moved = if begin == self.moved { end } else { self.moved };
                if !messages.is_empty() {
                    self.call(&Call::Intake { messages })?;
                }
            }
            Op::Restore { jobs, narrow } => {
                let jobs = jobs.iter().map(|(job, recheck)| self.job(QUEUES[usize::from(*recheck)], *job, 0));
                let jobs = jobs.collect();
                self.call(&Call::Restore { queues: QUEUES[usize::from(*narrow)..2].to_vec(), jobs })?;
            }
            Op::ForeignPush { queue, job, due_in_seconds, garbled } => {
                let job = self.job(QUEUES[usize::from(*queue)], *job, 0);
                // apalis-redis does not push an id that has a payload.
                if !self.model.queue(job.queue).data.contains_key(&job.id) {
                    let due_seconds = self.system.now_ms() / 1000 + due_in_seconds;
                    let attempts = if *garbled { "many" } else { "4" };
                    self.call(&Call::Push { job, due_seconds, attempts })?;
                }
            }
            Op::ForeignId { queue, job } => {
                let (queue, id) = (QUEUES[usize::from(*queue)], id(*job));
                self.corrupted.insert((queue, id.clone()));
                self.call(&Call::Id { queue, id })?;
            }
            Op::ForeignText { queue, job } => {
                let (queue, id) = (QUEUES[usize::from(*queue)], id(*job));
                self.corrupted.insert((queue, id.clone()));
                self.call(&Call::Text { queue, id })?;
            }
            Op::Start { queue } => self.start(QUEUES[usize::from(*queue)]),
            Op::Claim { worker, limit, lost } => self.claim(usize::from(*worker), *limit, *lost)?,
            Op::Settle { worker, max_crashes, picks } => {
                self.settle(usize::from(*worker), *max_crashes, picks)?;
            }
            Op::SettleAgain { worker, before } => {
                let worker = usize::from(*worker) % self.workers.len();
                let sent = &self.workers[worker].sent;
                if let Some(batch) = sent.len().checked_sub(1 + usize::from(*before)).map(|n| sent[n].clone())
                {
                    self.call(&Call::Settle(batch))?;
                }
            }
            Op::Heartbeat { workers, clock_was_set } => self.heartbeat(*workers, *clock_was_set)?,
            Op::Crowd => {
                let report = |n| Report { queue: QUEUES[0], worker: format!("x{n:02}"), holds: false };
                let (lease_ms, pause_ms) = (self.system.scaled(LEASE_MS), self.system.scaled(PAUSE_MS));
                let reports = (0..CROWD).map(report).collect();
                self.call(&Call::Heartbeat { lease_ms, pause_ms, clock_was_set: false, reports })?;
            }
            Op::Pass { ms } => self.system.pass(*ms),
            Op::SetBack { ms } => self.system.set_back(*ms),
            Op::Reap { queue, limit } => {
                let (queue, lease_ms) = (QUEUES[usize::from(*queue)], self.system.scaled(LEASE_MS));
                self.call(&Call::Reap { queue, lease_ms, limit: *limit })?;
            }
            Op::Acquit { worker, jobs } => self.acquit(usize::from(*worker), *jobs)?,
            Op::Identify { worker, jobs, ids } => self.identify(usize::from(*worker), *jobs, *ids)?,
            Op::PutRight { queue, limit } => self.put_right(QUEUES[usize::from(*queue)], *limit)?,
            Op::Hasten { jobs, within_ms } => {
                let within_ms = self.system.scaled(*within_ms);
                self.call(&Call::Hasten { queues: TRACKING.to_vec(), within_ms, ids: ids(*jobs) })?;
            }
            Op::GiveBack { worker, jobs, other } => self.give_back(usize::from(*worker), *jobs, *other)?,
            Op::Leave { worker } => {
                let worker = usize::from(*worker) % self.workers.len();
                let Worker { queue, name, last_batch, .. } = self.workers.remove(worker);
                self.call(&Call::Leave { queue, last_batch, worker: name })?;
                self.start(queue);
            }
            Op::Replay { queue, job, dead } => {
                let queue = QUEUES[usize::from(*queue)];
                let others =
                    TRACKING.into_iter().filter(|other| TRACKING.contains(&queue) && *other != queue);
                let queues = std::iter::once(queue).chain(others).collect();
                let id = self.dead_letter(queue, *job, *dead);
                self.call(&Call::Replay { queues, id })?;
            }
            Op::Discard { queue, job, dead } => {
                let queue = QUEUES[usize::from(*queue)];
                let id = self.dead_letter(queue, *job, *dead);
                self.call(&Call::Discard { queue, id })?;
            }
        }
        Ok(())
    }

    /// Id of a dead letter if `dead` is set and the queue has one, otherwise of any job.
    fn dead_letter(&mut self, queue: &'static str, job: u8, dead: bool) -> String {
        let letters = &self.model.queue(queue).dead;
        let chosen = letters.iter().nth(usize::from(job) % letters.len().max(1));
        chosen.filter(|_| dead).cloned().unwrap_or_else(|| id(job))
    }

    fn claim(&mut self, worker: usize, limit: usize, lost: bool) -> Result<(), String> {
        let worker = worker % self.workers.len();
        let Worker { queue, name, held, .. } = &self.workers[worker];
        let (queue, name, holds) = (*queue, name.clone(), !held.is_empty());
        let answer = self.call(&Call::Claim { queue, worker: name.clone(), limit, holds })?;
        let Answer::List(values) = answer else { return Ok(()) };
        let Answer::List(ids) = &values[2] else { return Err("no ids".to_owned()) };
        for id in ids.iter().filter(|_| !lost) {
            let Answer::Text(id) = id else { return Err("no id".to_owned()) };
            self.workers[worker].held.push((name.clone(), id.clone()));
        }
        Ok(())
    }

    fn settle(&mut self, worker: usize, max_crashes: i64, picks: &[Pick]) -> Result<(), String> {
        let worker = worker % self.workers.len();
        let Worker { queue, name, last_batch, held, .. } = &self.workers[worker];
        let (queue, last_batch) = (*queue, last_batch.clone());
        // Jobs are settled under the name under which they were claimed.
        let name = held.first().map_or(name, |(name, _)| name).clone();
        let settlements = picks.iter().map(|pick| {
            let mut held: Vec<String> = self.workers[worker].held.iter().map(|(_, id)| id.clone()).collect();
            let known = pick.held && !held.is_empty();
            let id = if known { held.swap_remove(usize::from(pick.job) % held.len()) } else { id(pick.job) };
            let mut next: Vec<Job> = pick
                .next
                .iter()
                .map(|(queue, job, delay_ms)| self.job(QUEUES[usize::from(*queue)], *job, *delay_ms))
                .filter(|job| (job.queue, &job.id) != (queue, &id))
                .collect();
            // Handlers replace only completed jobs.
            if let Some(delay_ms) = pick.replaced_ms.filter(|_| pick.action == "complete") {
                next.push(Job { id: id.clone(), ..self.job(queue, 0, delay_ms) });
            }
            Settlement {
                id,
                action: pick.action,
                delay_ms: self.system.scaled(pick.delay_ms),
                reason: format!("reason {}", self.next()),
                payload: if pick.new_payload { format!("payload {}", self.next()) } else { String::new() },
                next,
            }
        });
        let mut settlements: Vec<Settlement> = settlements.collect();
        settlements.sort_by_key(|settlement| !settlement.is_final());
        self.workers[worker].held.retain(|(under, id)| {
            *under != name || settlements.iter().all(|settlement| settlement.id != *id)
        });
        let number = self.next();
        let batch = Batch { queue, number_key: last_batch, number, worker: name, max_crashes, settlements };
        self.workers[worker].sent.push(batch.clone());
        self.call(&Call::Settle(batch)).map(drop)
    }

    fn heartbeat(&mut self, workers: u16, clock_was_set: bool) -> Result<(), String> {
        let reporting: Vec<usize> = (0..self.workers.len()).filter(|n| workers >> n & 1 == 1).collect();
        let report = |worker: &Worker| Report {
            queue: worker.queue,
            worker: worker.name.clone(),
            holds: !worker.held.is_empty(),
        };
        let reports: Vec<Report> = reporting.iter().map(|n| report(&self.workers[*n])).collect();
        if reports.is_empty() {
            return Ok(());
        }
        let (lease_ms, pause_ms) = (self.system.scaled(LEASE_MS), self.system.scaled(PAUSE_MS));
        let heartbeat = Call::Heartbeat { lease_ms, pause_ms, clock_was_set, reports };
        let Answer::List(mut answer) = self.call(&heartbeat)? else {
            return Err("no list".to_owned());
        };
        let Some(Answer::List(answers)) = answer.pop() else { return Err("no reports".to_owned()) };
        for (n, answer) in reporting.into_iter().zip(answers) {
            if matches!(answer, Answer::List(values) if values.first() == Some(&Answer::Number(-1))) {
                let name = format!("w{}", self.next());
                let former = std::mem::replace(&mut self.workers[n].name, name);
                self.workers[n].former_names.push(former);
            }
        }
        Ok(())
    }

    fn acquit(&mut self, worker: usize, jobs: u8) -> Result<(), String> {
        let renamed: Vec<_> =
            self.workers.iter().filter_map(|at| Some((at.queue, at.former_names.last()?))).collect();
        if renamed.is_empty() {
            return Ok(());
        }
        let (queue, former) = renamed[worker % renamed.len()];
        let call = Call::Acquit { queue, worker: former.clone(), ids: ids(jobs) };
        self.call(&call).map(drop)
    }

    /// Calls the script until it has read the whole queue.
    fn put_right(&mut self, queue: &'static str, limit: usize) -> Result<(), String> {
        let mut from = "-inf".to_owned();
        while !from.is_empty() {
            let answer = self.call(&Call::PutRight { queue, from, limit })?;
            let Answer::List(values) = answer else { return Err("no list".to_owned()) };
            let Answer::Text(next) = &values[0] else { return Err("no text".to_owned()) };
            from = next.clone();
        }
        Ok(())
    }

    /// The worker no longer holds the renamed jobs: it claimed them a moment ago and did not begin them.
    fn identify(&mut self, worker: usize, jobs: u8, ids: [u8; 8]) -> Result<(), String> {
        let worker = worker % self.workers.len();
        let (queue, name) = (self.workers[worker].queue, self.workers[worker].name.clone());
        let others = TRACKING.into_iter().filter(|other| TRACKING.contains(&queue) && *other != queue);
        let queues = std::iter::once(queue).chain(others).collect();
        let data = self.model.queue(queue).data.clone();
        let of_this = self.workers[worker].held.iter().filter(|(under, _)| *under == name);
        let chosen = of_this.zip(ids).enumerate().filter(|(n, _)| jobs >> (n % 8) & 1 == 1);
        let pairs = chosen.map(|(_, ((_, claimed), required))| (claimed.clone(), id(required)));
        // A worker renames only jobs with a payload, and only to another id.
        let jobs: Vec<_> =
            pairs.filter(|(claimed, required)| claimed != required && data.contains_key(claimed)).collect();
        let renamed: BTreeSet<&String> = jobs.iter().map(|(claimed, _)| claimed).collect();
        self.workers[worker].held.retain(|(under, id)| *under != name || !renamed.contains(id));
        if jobs.is_empty() {
            return Ok(());
        }
        self.call(&Call::Identify { queues, worker: name, jobs }).map(drop)
    }

    fn give_back(&mut self, worker: usize, jobs: u8, other: u8) -> Result<(), String> {
        let worker = &self.workers[worker % self.workers.len()];
        let (queue, name) = (worker.queue, worker.name.clone());
        let claimed = self.model.queue(queue).inflight.get(&name).cloned().unwrap_or_default();
        let unknown = claimed.into_iter().filter(|id| worker.held.iter().all(|(_, held)| held != id));
        let chosen = unknown.enumerate().filter(|(n, _)| jobs >> (n % 8) & 1 == 1).map(|(_, id)| id);
        let mut ids: Vec<String> = chosen.collect();
        let other = id(other);
        if worker.held.iter().all(|(_, held)| *held != other) {
            ids.push(other);
        }
        if ids.is_empty() {
            return Ok(());
        }
        self.call(&Call::GiveBack { queue, worker: name, ids }).map(drop)
    }

    /// Runs a call on Redis and on the model, and compares them.
    fn call(&mut self, call: &Call) -> Result<Answer, String> {
        let found = self.system.run(call).map_err(|error| format!("{call:?}\n{error}"))?;
        // The script ran in one of these milliseconds. With a set time there is only one.
        let (first, last) = found.between_ms;
        let mut differences = Vec::new();
        for now_ms in first..=last {
            let mut model = self.model.clone();
            let expected = model.run(call, seconds(now_ms), &found.snapshot);
            match compare(call, &model, &expected, &found) {
                None => {
                    self.model = model;
                    self.model.adopt_due_times(&found.snapshot);
                    differences.clear();
                    break;
                }
                Some(difference) => differences.push(difference),
            }
        }
        if let Some(difference) = differences.first() {
            return Err(format!("{call:?}\n{difference}"));
        }
        match violation(&found.snapshot, &self.corrupted) {
            None => Ok(found.answer),
            Some(violation) => Err(format!("{call:?}\n{violation}")),
        }
    }
}

/// The same calculation as in the Lua prelude, exact to the last bit.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of this century are far below 2^53")]
fn seconds(ms: u64) -> f64 {
    (ms / 1000) as f64 + (ms % 1000) as f64 / 1000.0
}
