//! Jobs with scripted steps, and the handler that runs them.
//!
//! The payload of a job holds its steps. A run takes the first; the settlement stores the rest as the new payload.
//! Each settlement also enqueues a *receipt*: a following job in a queue that no worker consumes. A job that is settled
//! twice, or by a worker that had lost it, has a receipt too many.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use topup_jobs::{JobName, PollTopup, TopupId, TrackTopup};
use topup_worker::job::{Disposition, Handler, Job, NextJob, Settlement};

use super::diary::Diary;

/// Queue of the receipts.
pub(crate) const RECEIPTS: JobName = JobName::RecheckTopup;
const STEPS: &str = "steps";

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Act {
    Finish,
    /// Snoozes the job for so many ms.
    Wait(u64),
    /// Fails; the job is retried after so many ms.
    Retry(u64),
    DeadLetter,
    Panic,
    /// The process dies of a signal.
    Abort,
    /// The process ends with status 0.
    Exit,
}

/// One run of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) act: Act,
    takes_ms: u64,
    /// Gate that the test must open before the run does anything.
    gate: Option<String>,
    /// Gate that must be open for the step to run; until then each run snoozes the job, as a job without a permit does.
    snooze_until: Option<String>,
}

/// A job with all its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TestJob {
    pub(crate) id: String,
    pub(crate) steps: Vec<Step>,
}

impl Act {
    pub(crate) fn taking(self, takes: Duration) -> Step {
        Step {
            act: self,
            takes_ms: takes.as_millis().try_into().expect("a short time"),
            gate: None,
            snooze_until: None,
        }
    }

    pub(crate) fn at_once(self) -> Step {
        self.taking(Duration::ZERO)
    }

    pub(crate) fn behind(self, gate: &str) -> Step {
        Step { gate: Some(gate.to_owned()), ..self.at_once() }
    }

    pub(crate) fn snoozing_until(self, gate: &str) -> Step {
        Step { snooze_until: Some(gate.to_owned()), ..self.at_once() }
    }

    /// Whether the handler settles the job. After a panic or the death of the process the queue does.
    pub(crate) fn settles(self) -> bool {
        !matches!(self, Self::Panic | Self::Abort | Self::Exit)
    }
}

impl TestJob {
    pub(crate) fn new(number: u32, steps: impl IntoIterator<Item = Step>) -> Self {
        Self { id: format!("{number:024x}"), steps: steps.into_iter().collect() }
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        payload(self.id.parse().expect("an id"), &self.steps)
    }
}

/// A mixed load: jobs that complete, are snoozed, are retried, stay scheduled, or are dead-lettered.
pub(crate) fn mixed(count: u32) -> Vec<TestJob> {
    let steps = |n: u32| match n % 10 {
        0 => vec![Act::Wait(300).at_once(), Act::Wait(900).at_once(), Act::Finish.at_once()],
        1 => vec![Act::Retry(700).at_once(), Act::Retry(200).at_once(), Act::Finish.at_once()],
        2 => vec![Act::Wait(3_600_000).at_once()],
        3 => vec![Act::DeadLetter.at_once()],
        n => vec![Act::Finish.taking(Duration::from_millis(40 * u64::from(n)))],
    };
    (0..count).map(|n| TestJob::new(n, steps(n))).collect()
}

fn payload(topup_id: TopupId, steps: &[Step]) -> Vec<u8> {
    let steps = serde_json::to_value(steps).expect("steps are JSON");
    let metadata = Some([(STEPS.to_owned(), steps)].into_iter().collect());
    let order = TrackTopup { metadata, ..TrackTopup::new(topup_id) };
    serde_json::to_vec(&PollTopup(order)).expect("a payload is JSON")
}

/// Handler that runs the steps of a job.
pub(crate) struct ScriptedHandler {
    pub(crate) diary: Diary,
    /// Pid of the worker: this process, or its parent for an isolated job.
    pub(crate) owner: u32,
    /// Folder of the gates. A gate is open if its file exists.
    pub(crate) gates: PathBuf,
    /// Whether settlements enqueue receipts.
    pub(crate) receipts: bool,
}

#[async_trait]
impl Handler for ScriptedHandler {
    type Payload = PollTopup;
    const NAME: JobName = JobName::PollTopup;

    async fn handle(&self, job: Job<PollTopup>) -> Settlement {
        let metadata = job.payload.0.metadata.as_ref().expect("a payload of these tests");
        let steps: Vec<Step> = serde_json::from_value(metadata[STEPS].clone()).expect("steps");
        let run = self.diary.start(&job.id, self.owner, steps.len(), job.attempts_made);
        let (step, rest) = steps.split_first().expect("a job has a step for each run");
        if let Some(gate) = &step.gate {
            while !self.gates.join(gate).exists() {
                sleep(Duration::from_millis(10)).await;
            }
        }
        if step.snooze_until.as_ref().is_some_and(|gate| !self.gates.join(gate).exists()) {
            return Settlement::new(Disposition::Snooze(Duration::from_millis(100)));
        }
        sleep(Duration::from_millis(step.takes_ms)).await;
        let mut settlement = Settlement::new(match step.act {
            Act::Finish => Disposition::Complete,
            Act::Wait(ms) => Disposition::Snooze(Duration::from_millis(ms)),
            Act::Retry(ms) => Disposition::Retry(Duration::from_millis(ms), "scripted".to_owned()),
            Act::DeadLetter => Disposition::DeadLetter("scripted".to_owned()),
            Act::Panic => panic!("scripted"),
            Act::Abort => {
                self.diary.dies();
                std::process::abort()
            }
            Act::Exit => {
                self.diary.dies();
                std::process::exit(0)
            }
        });
        settlement.payload = Some(payload(job.payload.0.topup_id.clone(), rest));
        if self.receipts {
            let receipt = format!("{}/{}/{}", job.id, steps.len(), run.name());
            settlement.next.push(NextJob::new(RECEIPTS, receipt, &(), Duration::ZERO));
        }
        settlement
    }
}
