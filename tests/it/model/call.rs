//! One call that changes the queues: of a script, or commands of a producer or of another program.

/// The queues; scripts receive their names as arguments.
pub(super) const QUEUES: [&str; 3] = ["{model}:poll", "{model}:recheck", "{model}:notify"];
/// Queues in which an order may be tracked; messages of the inbox move into them.
pub(super) const TRACKING: [&str; 2] = [QUEUES[0], QUEUES[1]];
pub(super) const INBOX: &str = "{model}:inbox";
pub(super) const REJECTED: &str = "{model}:rejected";

/// A job to be put into a queue.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) queue: &'static str,
    pub(super) id: String,
    pub(super) payload: String,
    pub(super) delay_ms: u64,
}

impl Job {
    /// Failed attempts with which the job is restored; zero for some ids.
    pub(super) fn failed_attempts(&self) -> usize {
        self.id.bytes().last().map_or(0, |digit| usize::from(digit % 3))
    }
}

/// New payload of a replayed job; empty if the old one stays.
pub(super) fn replayed_payload(id: &str) -> String {
    if id.bytes().last().is_some_and(|digit| digit % 2 == 0) {
        format!("replayed {id}")
    } else {
        String::new()
    }
}

/// A message in the inbox, and the verdict of the worker: a job, or a reason to reject it.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) id: String,
    /// Kind of an accepted message, as `intake.lua` names it.
    pub(super) kind: &'static str,
    pub(super) verdict: Result<Job, String>,
}

impl Message {
    /// The job that applies the message if the order is tracked.
    pub(super) fn tracked_job(&self) -> Job {
        let (order, payload) = self.verdict.as_ref().map_or(("", ""), |job| (&job.id, &job.payload));
        let (id, payload) = (format!("{order}#{}", self.id), format!("{payload}, tracked"));
        Job { queue: TRACKING[0], id, payload, delay_ms: 0 }
    }

    pub(super) fn is_about_a_known_order(&self) -> bool {
        self.kind != "repeat" && self.kind != "update"
    }

    /// The only field of the message in the stream.
    pub(super) fn field(&self) -> (String, String) {
        ("said".to_owned(), format!("message {}", self.id))
    }
}

/// The settlement of one job.
#[derive(Debug, Clone)]
pub(super) struct Settlement {
    pub(super) id: String,
    pub(super) action: &'static str,
    pub(super) delay_ms: u64,
    pub(super) reason: String,
    /// New payload; empty if the old one stays.
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
        pause_ms: u64,
        clock_was_set: bool,
        reports: Vec<Report>,
    },
    Reap {
        queue: &'static str,
        lease_ms: u64,
        limit: usize,
    },
    /// A worker that is alive clears its jobs, which became suspects when it was presumed dead.
    Acquit {
        queue: &'static str,
        worker: String,
        ids: Vec<String>,
    },
    /// Claimed jobs of the first queue are renamed: pairs of the current id and the required id.
    Identify {
        queues: Vec<&'static str>,
        worker: String,
        jobs: Vec<(String, String)>,
    },
    /// The waits of the next jobs from this due time on are put right.
    PutRight {
        queue: &'static str,
        from: String,
        limit: usize,
    },
    /// Jobs that are overdue according to the database are made due.
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
    /// A dead letter of the first queue is replayed; the job may be in the other queues.
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
    /// A program pushes a job by apalis-redis, due at this second.
    Push {
        job: Job,
        due_seconds: u64,
        attempts: &'static str,
    },
    /// Another program puts an id into `:active`.
    Id {
        queue: &'static str,
        id: String,
    },
    /// Another program writes a text to the key of a job's history.
    Text {
        queue: &'static str,
        id: String,
    },
}

/// A batch of settlements.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) queue: &'static str,
    /// Key of the number of the last batch.
    pub(super) number_key: String,
    pub(super) number: u64,
    pub(super) worker: String,
    pub(super) max_crashes: i64,
    /// Completed jobs without following jobs come first.
    pub(super) settlements: Vec<Settlement>,
}

impl Settlement {
    /// Whether the job is complete and has no following job.
    pub(super) fn is_final(&self) -> bool {
        self.action == "complete" && self.next.is_empty()
    }
}

impl Call {
    /// File name of the script, without `.lua`.
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
                let keys = [INBOX, REJECTED].iter().chain(&TRACKING).map(ToString::to_string).collect();
                (keys, messages.iter().flat_map(message_arguments).collect())
            }
            Self::Restore { queues, jobs } => {
                let jobs = jobs.iter().flat_map(|job| {
                    [text(job.queue), job.id.clone(), job.payload.clone(), job.failed_attempts().to_string()]
                });
                // The number of waiting jobs is unlimited; the limit has tests of its own.
                let arguments = [text("0"), text("0")].into_iter().chain(jobs).collect();
                (queues.iter().map(ToString::to_string).collect(), arguments)
            }
            Self::Claim { queue, worker, limit, holds } => {
                (vec![text(queue)], vec![worker.clone(), limit.to_string(), flag(*holds)])
            }
            Self::Settle(batch) => {
                let keys = vec![text(batch.queue), batch.number_key.clone()];
                let mut arguments =
                    vec![batch.number.to_string(), batch.worker.clone(), batch.max_crashes.to_string()];
                let finished = batch.settlements.partition_point(Settlement::is_final);
                let (finished, others) = batch.settlements.split_at(finished);
                arguments.push(finished.len().to_string());
                arguments.extend(finished.iter().map(|settlement| settlement.id.clone()));
                arguments.extend(others.iter().flat_map(settlement_arguments));
                (keys, arguments)
            }
            Self::Heartbeat { lease_ms, pause_ms, clock_was_set, reports } => {
                let of_each = reports.iter().flat_map(|report| [report.worker.clone(), flag(report.holds)]);
                let first = [lease_ms.to_string(), pause_ms.to_string(), flag(*clock_was_set)];
                let arguments = first.into_iter().chain(of_each).collect();
                (reports.iter().map(|report| text(report.queue)).collect(), arguments)
            }
            Self::Reap { queue, lease_ms, limit } => {
                (vec![text(queue)], vec![lease_ms.to_string(), limit.to_string()])
            }
            Self::Identify { queues, worker, jobs } => {
                let jobs = jobs.iter().flat_map(|(claimed, id)| [claimed.clone(), id.clone()]);
                let arguments = std::iter::once(worker.clone()).chain(jobs).collect();
                (queues.iter().map(ToString::to_string).collect(), arguments)
            }
            Self::PutRight { queue, from, limit } => {
                (vec![text(queue)], vec![from.clone(), limit.to_string()])
            }
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

    /// The commands of a call that is not a script.
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
            let (kind, tracked) = (message.kind.to_owned(), message.tracked_job());
            let job_id = if message.is_about_a_known_order() { tracked.id } else { order.clone() };
            let accept = vec![id, "accept".to_owned(), kind, order, queue.to_owned(), job_id, payload];
            [accept, vec![delay_ms.to_string(), tracked.payload]].concat()
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
