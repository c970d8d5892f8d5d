//! One thing that happens to the queues: the call of a script, or what a foreign program does.

/// The queues; every script is told their names.
pub(super) const QUEUES: [&str; 3] = ["{model}:poll", "{model}:recheck", "{model}:notify"];
/// In these two an order may be tracked, and the inbox feeds them.
pub(super) const FOLLOWING: [&str; 2] = [QUEUES[0], QUEUES[1]];
pub(super) const INBOX: &str = "{model}:inbox";
pub(super) const REJECTED: &str = "{model}:rejected";

/// A job that is to be put into a queue.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) queue: &'static str,
    pub(super) id: String,
    pub(super) payload: String,
    pub(super) delay_ms: u64,
}

impl Job {
    /// With which it is put back; of some there are none.
    pub(super) fn failed_attempts(&self) -> usize {
        self.id.bytes().last().map_or(0, |digit| usize::from(digit % 3))
    }
}

/// What a job carries from its replay on; empty where that stays as it is.
pub(super) fn replayed_payload(id: &str) -> String {
    if id.bytes().last().is_some_and(|digit| digit % 2 == 0) {
        format!("replayed {id}")
    } else {
        String::new()
    }
}

/// A message in the inbox and what the worker makes of it: a job, or a reason to reject it.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) id: String,
    /// What it is where it is accepted, in the word of the script.
    pub(super) what: &'static str,
    pub(super) verdict: Result<Job, String>,
}

impl Message {
    /// The job that carries it out where the order is tracked.
    pub(super) fn where_followed(&self) -> Job {
        let (order, payload) = self.verdict.as_ref().map_or(("", ""), |job| (&job.id, &job.payload));
        let (id, payload) = (format!("{order}#{}", self.id), format!("{payload}, tracked"));
        Job { queue: FOLLOWING[0], id, payload, delay_ms: 0 }
    }

    pub(super) fn is_about_a_known_order(&self) -> bool {
        self.what != "repeat" && self.what != "update"
    }

    /// The one field with which it stands in the stream.
    pub(super) fn field(&self) -> (String, String) {
        ("said".to_owned(), format!("message {}", self.id))
    }
}

/// What becomes of one job of a batch.
#[derive(Debug, Clone)]
pub(super) struct Settlement {
    pub(super) id: String,
    pub(super) action: &'static str,
    pub(super) delay_ms: u64,
    pub(super) reason: String,
    /// Empty: the one it has.
    pub(super) payload: String,
    pub(super) next: Vec<Job>,
}

/// One report of a heartbeat.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) queue: &'static str,
    pub(super) worker: String,
    pub(super) holds: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Call {
    Intake {
        messages: Vec<Message>,
    },
    Restore {
        queues: Vec<&'static str>,
        jobs: Vec<Job>,
    },
    Claim {
        queue: &'static str,
        worker: String,
        limit: usize,
        holds: bool,
    },
    Settle(Batch),
    Heartbeat {
        lease_ms: u64,
        clock_was_set: bool,
        reports: Vec<Report>,
    },
    Reap {
        queue: &'static str,
        lease_ms: u64,
        most: usize,
    },
    /// A worker that lives takes back what its jobs were suspected of.
    Acquit {
        queue: &'static str,
        worker: String,
        ids: Vec<String>,
    },
    /// Jobs that were claimed under one id are to have another. The first queue is theirs.
    Identify {
        queues: Vec<&'static str>,
        worker: String,
        jobs: Vec<(String, String)>,
    },
    /// The next jobs from this due time on are put right.
    PutRight {
        queue: &'static str,
        from: String,
        most: usize,
    },
    /// Jobs that are late by the store.
    Hasten {
        queues: Vec<&'static str>,
        within_ms: u64,
        ids: Vec<String>,
    },
    GiveBack {
        queue: &'static str,
        worker: String,
        ids: Vec<String>,
    },
    Leave {
        queue: &'static str,
        last_batch: String,
        worker: String,
    },
    /// A dead letter of the first queue is to run again; the job may be in the others.
    Replay {
        queues: Vec<&'static str>,
        id: String,
    },
    Discard {
        queue: &'static str,
        id: String,
    },
    /// A producer adds a message.
    Add(Message),
    /// A program on apalis-redis pushes a job, due at this second.
    Push {
        job: Job,
        due_seconds: u64,
        attempts: &'static str,
    },
    /// An id is put into `:active`, whatever there is of it already.
    Id {
        queue: &'static str,
        id: String,
    },
    /// A text where the history of a job should be, or no longer.
    Text {
        queue: &'static str,
        id: String,
    },
}

/// A batch of settlements.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) queue: &'static str,
    /// The key under which its number is kept.
    pub(super) number_key: String,
    pub(super) number: u64,
    pub(super) worker: String,
    pub(super) most_crashes: i64,
    /// Those first that only finish a job.
    pub(super) settlements: Vec<Settlement>,
}

impl Settlement {
    /// Whether the job is done and nothing follows from it.
    pub(super) fn only_finishes(&self) -> bool {
        self.action == "complete" && self.next.is_empty()
    }
}

impl Call {
    /// The script that is called, by the name of its file.
    pub(super) fn script(&self) -> Option<&'static str> {
        Some(match self {
            Self::Intake { .. } => "intake",
            Self::Restore { .. } => "restore",
            Self::Claim { .. } => "claim",
            Self::Settle(_) => "settle",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Reap { .. } => "reap",
            Self::Acquit { .. } => "acquit",
            Self::Identify { .. } => "identify",
            Self::PutRight { .. } => "put_right",
            Self::Hasten { .. } => "hasten",
            Self::GiveBack { .. } => "give_back",
            Self::Leave { .. } => "leave",
            Self::Replay { .. } => "dead_replay",
            Self::Discard { .. } => "dead_discard",
            Self::Add(_) | Self::Push { .. } | Self::Id { .. } | Self::Text { .. } => return None,
        })
    }

    /// The keys and arguments of the script.
    pub(super) fn arguments(&self) -> (Vec<String>, Vec<String>) {
        let flag = |holds: bool| u8::from(holds).to_string();
        let text = |text: &str| text.to_owned();
        match self {
            Self::Intake { messages } => {
                let keys = [INBOX, REJECTED].iter().chain(&FOLLOWING).map(ToString::to_string).collect();
                (keys, messages.iter().flat_map(message_arguments).collect())
            }
            Self::Restore { queues, jobs } => {
                let jobs = jobs.iter().flat_map(|job| {
                    [text(job.queue), job.id.clone(), job.payload.clone(), job.failed_attempts().to_string()]
                });
                // Any number may wait: how many may is the subject of tests of its own.
                let arguments = [text("0"), text("0")].into_iter().chain(jobs).collect();
                (queues.iter().map(ToString::to_string).collect(), arguments)
            }
            Self::Claim { queue, worker, limit, holds } => {
                (vec![text(queue)], vec![worker.clone(), limit.to_string(), flag(*holds)])
            }
            Self::Settle(batch) => {
                let keys = vec![text(batch.queue), batch.number_key.clone()];
                let mut arguments =
                    vec![batch.number.to_string(), batch.worker.clone(), batch.most_crashes.to_string()];
                let finished = batch.settlements.partition_point(Settlement::only_finishes);
                let (finished, others) = batch.settlements.split_at(finished);
                arguments.push(finished.len().to_string());
                arguments.extend(finished.iter().map(|settlement| settlement.id.clone()));
                arguments.extend(others.iter().flat_map(settlement_arguments));
                (keys, arguments)
            }
            Self::Heartbeat { lease_ms, clock_was_set, reports } => {
                let of_each = reports.iter().flat_map(|report| [report.worker.clone(), flag(report.holds)]);
                let first = [lease_ms.to_string(), flag(*clock_was_set)];
                let arguments = first.into_iter().chain(of_each).collect();
                (reports.iter().map(|report| text(report.queue)).collect(), arguments)
            }
            Self::Reap { queue, lease_ms, most } => {
                (vec![text(queue)], vec![lease_ms.to_string(), most.to_string()])
            }
            Self::Identify { queues, worker, jobs } => {
                let jobs = jobs.iter().flat_map(|(claimed, id)| [claimed.clone(), id.clone()]);
                let arguments = std::iter::once(worker.clone()).chain(jobs).collect();
                (queues.iter().map(ToString::to_string).collect(), arguments)
            }
            Self::PutRight { queue, from, most } => (vec![text(queue)], vec![from.clone(), most.to_string()]),
            Self::Hasten { queues, within_ms, ids } => {
                let arguments = std::iter::once(within_ms.to_string()).chain(ids.iter().cloned()).collect();
                (queues.iter().map(ToString::to_string).collect(), arguments)
            }
            Self::GiveBack { queue, worker, ids } | Self::Acquit { queue, worker, ids } => {
                (vec![text(queue)], std::iter::once(worker).chain(ids).cloned().collect())
            }
            Self::Leave { queue, last_batch, worker } => {
                (vec![text(queue), last_batch.clone()], vec![worker.clone()])
            }
            Self::Replay { queues, id } => {
                (queues.iter().map(ToString::to_string).collect(), vec![id.clone(), replayed_payload(id)])
            }
            Self::Discard { queue, id } => (vec![text(queue)], vec![id.clone()]),
            Self::Add(_) | Self::Push { .. } | Self::Id { .. } | Self::Text { .. } => Default::default(),
        }
    }

    /// The commands of what is no script.
    pub(super) fn commands(&self) -> Vec<Vec<String>> {
        let command = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        match self {
            Self::Add(message) => {
                let (name, value) = message.field();
                vec![command(&["XADD", INBOX, &message.id, &name, &value])]
            }
            Self::Push { job: Job { queue, id, payload, .. }, due_seconds, attempts } => {
                let (meta, due) = (format!("{queue}:meta:{id}"), due_seconds.to_string());
                vec![
                    command(&["HSETNX", &format!("{queue}:data"), id, payload]),
                    command(&["DEL", &meta]),
                    command(&["HSET", &meta, "attempts", attempts, "status", "Pending"]),
                    command(&["ZADD", &format!("{queue}:scheduled"), &due, id]),
                ]
            }
            Self::Id { queue, id } => vec![command(&["RPUSH", &format!("{queue}:active"), id])],
            Self::Text { queue, id } => {
                vec![command(&["SET", &format!("{queue}:meta:{id}"), "not a hash"])]
            }
            _ => Vec::new(),
        }
    }
}

fn message_arguments(message: &Message) -> Vec<String> {
    let id = message.id.clone();
    match &message.verdict {
        Ok(job) => {
            let Job { queue, id: order, payload, delay_ms } = job.clone();
            let (what, where_followed) = (message.what.to_owned(), message.where_followed());
            let job_id = if message.is_about_a_known_order() { where_followed.id } else { order.clone() };
            let accept = vec![id, "accept".to_owned(), what, order, queue.to_owned(), job_id, payload];
            [accept, vec![delay_ms.to_string(), where_followed.payload]].concat()
        }
        Err(reason) => vec![id, "reject".to_owned(), reason.clone()],
    }
}

fn settlement_arguments(settlement: &Settlement) -> Vec<String> {
    let Settlement { id, action, delay_ms, reason, payload, next } = settlement.clone();
    let mut arguments =
        vec![id, action.to_owned(), delay_ms.to_string(), reason, payload, next.len().to_string()];
    for Job { queue, id, payload, delay_ms } in next {
        arguments.extend([queue.to_owned(), id, payload, delay_ms.to_string()]);
    }
    arguments
}
