//! The diary: every start and end of a handler, in order, kept outside of the queue in a file.
//!
//! Each entry is one write to a file opened for appending, so that the order of the entries is an order in time
//! across all processes, whatever their clocks say and whatever becomes of Redis.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use topup_worker::clock::real_now;

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub(crate) enum Entry {
    Start(Run),
    End {
        run: String,
    },
    /// This worker process is dead, and what it ran with it.
    Gone {
        owner: u32,
    },
    /// This process is about to die of a job, and what it runs with it.
    Dies {
        pid: u32,
    },
    /// The test is about to freeze this worker, or to cut it off, beyond its lease: from here on its jobs may
    /// rightly run elsewhere.
    Apart {
        owner: u32,
    },
    /// It is about to be let back.
    Back {
        owner: u32,
    },
}

/// One run of a job by a handler.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    /// Unlike any other.
    #[serde(rename = "run")]
    name: String,
    pub(crate) job: String,
    /// Pid of the worker, and of the process in which the handler runs: another one for a job in isolation.
    pub(crate) owner: u32,
    pub(crate) pid: u32,
    /// Steps of the job that were left, this one included.
    pub(crate) left: usize,
    pub(crate) attempts_made: u32,
    /// By the clock of the process.
    pub(crate) at_ms: i64,
}

/// See the module.
pub(crate) struct Diary {
    path: PathBuf,
    file: File,
    runs: AtomicU64,
}

/// A run that goes on. Dropping it writes its end.
pub(crate) struct Running<'a> {
    diary: &'a Diary,
    run: String,
}

impl Diary {
    pub(crate) fn open(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path).expect("the diary opens");
        Self { path: path.to_owned(), file, runs: AtomicU64::new(0) }
    }

    pub(crate) fn start(&self, job: &str, owner: u32, left: usize, attempts_made: u32) -> Running<'_> {
        let pid = std::process::id();
        let name = format!("{pid}-{}", self.runs.fetch_add(1, Ordering::Relaxed));
        let (job, at_ms) = (job.to_owned(), real_now().timestamp_millis());
        self.write(&Entry::Start(Run { name: name.clone(), job, owner, pid, left, attempts_made, at_ms }));
        Running { diary: self, run: name }
    }

    /// This process is about to die of a job.
    pub(crate) fn dies(&self) {
        self.write(&Entry::Dies { pid: std::process::id() });
    }

    /// Kills a process in which a worker runs jobs.
    pub(crate) fn kill(&self, pid: u32) {
        self.write(&Entry::Dies { pid });
        let killed = std::process::Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status();
        assert!(killed.expect("kill is there").success());
    }

    pub(crate) fn write(&self, entry: &Entry) {
        let mut line = serde_json::to_vec(entry).expect("an entry is plain");
        line.push(b'\n');
        (&self.file).write_all(&line).expect("the diary is written");
    }

    /// All whole entries so far.
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

    /// No job was in two hands at once, apart from hands that the test itself had tied.
    pub(crate) fn assert_no_job_ran_twice_at_once(&self) {
        let mut open: HashMap<String, Vec<(Run, bool)>> = HashMap::new();
        let mut apart: Vec<u32> = Vec::new();
        for entry in self.entries() {
            match entry {
                Entry::Start(run) => {
                    let excused = apart.contains(&run.owner);
                    let others = open.entry(run.job.clone()).or_default();
                    if let Some((other, _)) = others.iter().find(|(_, other_excused)| !other_excused) {
                        assert!(excused, "{run:?} began while {other:?} went on");
                    }
                    others.push((run, excused));
                }
                Entry::End { run } => {
                    for runs in open.values_mut() {
                        runs.retain(|(open, _)| open.name != run);
                    }
                }
                Entry::Gone { owner } => {
                    for runs in open.values_mut() {
                        runs.retain(|(open, _)| open.owner != owner);
                    }
                }
                Entry::Dies { pid } => {
                    for runs in open.values_mut() {
                        runs.retain(|(open, _)| open.pid != pid);
                    }
                }
                Entry::Apart { owner } => {
                    apart.push(owner);
                    let held = open.values_mut().flatten().filter(|(open, _)| open.owner == owner);
                    held.for_each(|(_, excused)| *excused = true);
                }
                Entry::Back { owner } => apart.retain(|one| *one != owner),
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
