//! The diary: a file with every start and end of a handler, in order. All worker processes of a test append to it.
//!
//! Each entry is one write to a file opened for appending. So the entries of all processes are in the order in which
//! they happened, independent of clocks and of Redis.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use topup_worker::clock::real_now;

/// One line of the diary.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub(crate) enum Entry {
    Start(Run),
    End {
        run: String,
    },
    /// This worker process is dead; its runs have ended.
    WorkerDied {
        owner: u32,
    },
    /// This process is about to die of a job; its runs end.
    ProcessDies {
        pid: u32,
    },
    /// The test is about to freeze this worker, or to cut its connection, for longer than its lease. From now on its
    /// jobs may also run on other workers.
    Unreachable {
        owner: u32,
    },
    /// The test is about to thaw or reconnect this worker.
    Reachable {
        owner: u32,
    },
}

/// One run of a job by a handler.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Unique name of the run.
    #[serde(rename = "run")]
    name: String,
    pub(crate) job: String,
    /// Pid of the worker, then of the process that runs the handler. They differ for an isolated job.
    pub(crate) owner: u32,
    pub(crate) pid: u32,
    /// Remaining steps of the job, with this one.
    pub(crate) steps_left: usize,
    pub(crate) attempts_made: u32,
    /// Start by the clock of the process.
    pub(crate) at_ms: i64,
}

/// The diary file, opened by one process.
pub(crate) struct Diary {
    path: PathBuf,
    file: File,
    runs: AtomicU64,
}

/// A run in progress. Dropping it writes its end.
pub(crate) struct Running<'a> {
    diary: &'a Diary,
    run: String,
}

impl Diary {
    pub(crate) fn open(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path).expect("the diary opens");
        Self { path: path.to_owned(), file, runs: AtomicU64::new(0) }
    }

    pub(crate) fn start(&self, job: &str, owner: u32, steps_left: usize, attempts_made: u32) -> Running<'_> {
        let pid = std::process::id();
        let name = format!("{pid}-{}", self.runs.fetch_add(1, Ordering::Relaxed));
        let (job, at_ms) = (job.to_owned(), real_now().timestamp_millis());
        let run = Run { name: name.clone(), job, owner, pid, steps_left, attempts_made, at_ms };
        self.write(&Entry::Start(run));
        Running { diary: self, run: name }
    }

    /// Records that this process is about to die of a job.
    pub(crate) fn dies(&self) {
        self.write(&Entry::ProcessDies { pid: std::process::id() });
    }

    /// Kills a process that runs jobs of a worker.
    pub(crate) fn kill(&self, pid: u32) {
        self.write(&Entry::ProcessDies { pid });
        let killed = std::process::Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status();
        assert!(killed.expect("the kill program runs").success());
    }

    pub(crate) fn write(&self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).expect("an entry is JSON");
        line.push(b'\n');
        (&self.file).write_all(&line).expect("the diary is written");
    }

    /// All complete entries so far.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let text = std::fs::read_to_string(&self.path).expect("the diary is read");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect()
    }

    /// All runs so far.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let start = |entry| if let Entry::Start(run) = entry { Some(run) } else { None };
        self.entries().into_iter().filter_map(start).collect()
    }

    /// The runs of one job.
    pub(crate) fn runs_of(&self, job: &str) -> Vec<Run> {
        let mut runs = self.runs();
        runs.retain(|run| run.job == job);
        runs
    }

    /// Checks that no job ran twice at the same time, except on a worker that was unreachable.
    pub(crate) fn assert_no_job_ran_twice_at_once(&self) {
        let mut open: HashMap<String, Vec<(Run, bool)>> = HashMap::new();
        let mut unreachable: Vec<u32> = Vec::new();
        for entry in self.entries() {
            match entry {
                Entry::Start(run) => {
                    let excused = unreachable.contains(&run.owner);
                    let others = open.entry(run.job.clone()).or_default();
                    if let Some((other, _)) = others.iter().find(|(_, other_excused)| !other_excused) {
                        assert!(excused, "{run:?} began while {other:?} was running");
                    }
                    others.push((run, excused));
                }
                Entry::End { run } => {
                    for runs in open.values_mut() {
                        runs.retain(|(open, _)| open.name != run);
                    }
                }
                Entry::WorkerDied { owner } => {
                    for runs in open.values_mut() {
                        runs.retain(|(open, _)| open.owner != owner);
                    }
                }
                Entry::ProcessDies { pid } => {
                    for runs in open.values_mut() {
                        runs.retain(|(open, _)| open.pid != pid);
                    }
                }
                Entry::Unreachable { owner } => {
                    unreachable.push(owner);
                    let running = open.values_mut().flatten().filter(|(open, _)| open.owner == owner);
                    running.for_each(|(_, excused)| *excused = true);
                }
                Entry::Reachable { owner } => unreachable.retain(|one| *one != owner),
            }
        }
    }
}

impl Running<'_> {
    pub(crate) fn name(&self) -> &str {
        &self.run
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.diary.write(&Entry::End { run: self.run.clone() });
    }
}
