//! What a job of these tests does, step by step, and the handler that does it.
//!
//! The steps stand in the job's payload. A run takes the first; a settlement carries the rest. Each settlement
//! leaves a *receipt*, a job in a queue that nobody works on, in the same step in which it is carried out:
//! whatever is settled twice, or settled by somebody who had lost the job, leaves one too many.

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
    /// Runs again after so many ms.
    Wait(u64),
    /// Failed, and runs again after so many ms.
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
    /// Waits, before all else, for the test to open the gate of this name.
    gate: Option<String>,
    /// As long as the gate of this name is shut, it waits once more instead, as a job does that may not ask yet.
    shy: Option<String>,
}

/// A job with all its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) id: String,
    pub(crate) steps: Vec<Step>,
}

impl Act {
    pub(crate) fn taking(self, takes: Duration) -> Step {
        Step {
            act: self,
            takes_ms: takes.as_millis().try_into().expect("a short time"),
            gate: None,
            shy: None,
        }
    }

    pub(crate) fn at_once(self) -> Step {
        self.taking(Duration::ZERO)
    }

    pub(crate) fn behind(self, gate: &str) -> Step {
        Step { gate: Some(gate.to_owned()), ..self.at_once() }
    }

    pub(crate) fn once_open(self, gate: &str) -> Step {
        Step { shy: Some(gate.to_owned()), ..self.at_once() }
    }

    /// Whether the job is settled by this, rather than by what the engine makes of it.
    pub(crate) fn settles(self) -> bool {
        !matches!(self, Self::Panic | Self::Abort | Self::Exit)
    }
}

impl Part {
    pub(crate) fn new(number: u32, steps: impl IntoIterator<Item = Step>) -> Self {
        Self { id: format!("{number:024x}"), steps: steps.into_iter().collect() }
    }

    pub(crate) fn payload(&self) -> Vec<u8> {
        payload(self.id.parse().expect("an id"), &self.steps)
    }
}

/// A mixed load: jobs that finish, wait, are retried, stay scheduled, and fail for good.
pub(crate) fn mixed(count: u32) -> Vec<Part> {
    let steps = |n: u32| match n % 10 {
        0 => vec![Act::Wait(300).at_once(), Act::Wait(900).at_once(), Act::Finish.at_once()],
        1 => vec![Act::Retry(700).at_once(), Act::Retry(200).at_once(), Act::Finish.at_once()],
        2 => vec![Act::Wait(3_600_000).at_once()],
        3 => vec![Act::DeadLetter.at_once()],
        n => vec![Act::Finish.taking(Duration::from_millis(40 * u64::from(n)))],
    };
    (0..count).map(|n| Part::new(n, steps(n))).collect()
}

fn payload(topup_id: TopupId, steps: &[Step]) -> Vec<u8> {
    let steps = serde_json::to_value(steps).expect("steps are plain");
    let metadata = Some([(STEPS.to_owned(), steps)].into_iter().collect());
    let order = TrackTopup { metadata, ..TrackTopup::new(topup_id) };
    serde_json::to_vec(&PollTopup(order)).expect("a payload is plain")
}

/// See the module.
pub(crate) struct ScriptedHandler {
    pub(crate) diary: Diary,
    /// Pid of the worker for which this process works: its own, or its parent's.
    pub(crate) owner: u32,
    /// Folder in which the gates are.
    pub(crate) gates: PathBuf,
    /// Whether settlements leave receipts.
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
        if step.shy.as_ref().is_some_and(|gate| !self.gates.join(gate).exists()) {
            return Settlement::new(Disposition::Snooze(Duration::from_millis(100)));
        }
        sleep(Duration::from_millis(step.takes_ms)).await;
        let mut settlement = Settlement::new(match step.act {
            Act::Finish => Disposition::Complete,
            Act::Wait(ms) => Disposition::Snooze(Duration::from_millis(ms)),
            Act::Retry(ms) => Disposition::Retry(Duration::from_millis(ms), "asked for".to_owned()),
            Act::DeadLetter => Disposition::DeadLetter("asked for".to_owned()),
            Act::Panic => panic!("asked for"),
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
