//! Worker processes that run nothing but the queue and scripted handlers.
//!
//! They are this very test binary, started again with one of the ignored tests below in the place of `main`: a
//! test may kill, freeze and abort them, and they settle by the same code as the real program.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use topup_worker::queue::{IsolatedJob, Isolation, Queues, Stopped, run_isolated};
use topup_worker::redis::{Names, RedisAddress, RedisHealth};
use topup_worker::shutdown::Shutdown;

use super::diary::{Diary, Entry};
use super::script::ScriptedHandler;
use crate::support::{signal, until};

/// Settings of a worker process, by environment.
const REDIS: &str = "TEST_ENGINE_REDIS_URL";
const FOLDER: &str = "TEST_ENGINE_FOLDER";
const SLOTS: &str = "TEST_ENGINE_SLOTS";
const RECEIPTS: &str = "TEST_ENGINE_RECEIPTS";

/// File of the diary in the folder that all processes of a test share.
pub(super) const DIARY: &str = "diary";

/// How a worker process is started.
pub(crate) struct Settings {
    pub(crate) redis_url: String,
    pub(crate) slots: usize,
    pub(crate) receipts: bool,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// A program that starts it, with its first arguments.
    pub(crate) wrapper: Vec<String>,
}

/// A worker process. Dropping it kills it.
pub(crate) struct EngineWorker {
    child: Child,
    log: PathBuf,
    diary: Arc<Diary>,
}

impl EngineWorker {
    pub(super) fn start(settings: &Settings, folder: &Path, log: PathBuf, diary: &Arc<Diary>) -> Self {
        let file = std::fs::File::create(&log).expect("the log opens");
        let (program, arguments) = this_program("worker_process");
        let mut command = match settings.wrapper.split_first() {
            None => Command::new(program),
            Some((wrapper, first)) => {
                let mut command = Command::new(wrapper);
                command.args(first).arg(program);
                command
            }
        };
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        command.env(REDIS, &settings.redis_url).env(FOLDER, folder);
        command.env(SLOTS, settings.slots.to_string()).env(RECEIPTS, settings.receipts.to_string());
        command.envs(settings.environment.iter().map(|(name, value)| (name, value)));
        let child = command.spawn().expect("the program starts");
        Self { child, log, diary: Arc::clone(diary) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it has logged this.
    pub(crate) async fn logs(&self, words: &str) {
        until(words, async || self.log().contains(words).then_some(())).await;
    }

    /// Fails where it has ended.
    pub(crate) fn assert_runs(&mut self) {
        let ended = self.child.try_wait().expect("it is ours to ask");
        assert_eq!(ended, None, "a worker ended:\n{}", self.log());
    }

    /// SIGKILL: no time for last words.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours to kill");
        self.child.wait().expect("it is gone");
        self.diary.write(&Entry::Gone { owner: self.pid() });
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn dies(&mut self) -> ExitStatus {
        let status = until("a worker dies", async || self.child.try_wait().expect("it is ours to ask")).await;
        self.diary.write(&Entry::Gone { owner: self.pid() });
        status
    }

    /// Asks it to stop and waits until it has: with success where its running jobs came to their end.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.dies().await
    }

    pub(crate) fn ask_to_stop(&self) {
        signal::send(&self.child, "TERM");
    }

    /// Stops it in the middle of whatever it does; returns once it stands still. It counts as apart until it is
    /// thawed.
    pub(crate) fn freeze(&self) {
        self.apart();
        signal::freeze(&self.child);
    }

    pub(crate) fn thaw(&self) {
        self.back();
        signal::send(&self.child, "CONT");
    }

    /// From here on its jobs may rightly run elsewhere.
    pub(crate) fn apart(&self) {
        self.diary.write(&Entry::Apart { owner: self.pid() });
    }

    /// What it starts from here on is its own again.
    pub(crate) fn back(&self) {
        self.diary.write(&Entry::Back { owner: self.pid() });
    }
}

impl Drop for EngineWorker {
    fn drop(&mut self) {
        let killed = self.child.kill().and_then(|()| self.child.wait()).is_ok();
        if !std::thread::panicking() {
            assert!(killed, "a worker could not be ended");
            assert!(!self.log().contains("a task of the"), "a task died:\n{}", self.log());
        }
    }
}

/// This program, and the arguments that make it run one of the functions below.
fn this_program(function: &str) -> (PathBuf, Vec<String>) {
    let module = module_path!();
    let test = format!("{}::{function}", module.split_once("::").map_or(module, |(_, path)| path));
    let program = std::env::current_exe().expect("this program has a path");
    (program, ["--exact", &test, "--ignored", "--nocapture"].map(str::to_owned).to_vec())
}

fn isolated_command() -> tokio::process::Command {
    let (program, arguments) = this_program("isolated_process");
    let mut command = tokio::process::Command::new(program);
    command.args(arguments);
    command
}

fn handler(owner: u32) -> ScriptedHandler {
    let gates = PathBuf::from(std::env::var_os(FOLDER).expect("the folder is set"));
    let receipts = std::env::var(RECEIPTS).is_ok_and(|on| on == "true");
    ScriptedHandler { diary: Diary::open(&gates.join(DIARY)), owner, gates, receipts }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

#[test]
#[ignore = "this is the main function of a worker process; tests start it"]
fn worker_process() {
    let Ok(redis_url) = std::env::var(REDIS) else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let slots = std::env::var(SLOTS).expect("the slots are set").parse().expect("a number");
    runtime().block_on(async {
        let stop = Shutdown::new();
        stop.on_signals().expect("signals can be listened for");
        let names: Names = super::PREFIX.parse().expect("a prefix");
        let address = RedisAddress::parse(&redis_url, &names).expect("an address");
        let queues = Queues::new(address, names, slots, &RedisHealth::default());
        let queues = queues.isolating(Isolation::new(isolated_command)).with(handler(std::process::id()));
        let stopped = queues.run(stop, Duration::from_secs(30)).await;
        assert_eq!(stopped, Stopped::Drained);
    });
}

#[test]
#[ignore = "this is the main function of a process for suspects; workers start it"]
fn isolated_process() {
    if std::env::var_os(REDIS).is_none() {
        return;
    }
    // The test harness may have left a line of its own unfinished.
    println!();
    let handler = Arc::new(handler(std::os::unix::process::parent_id()));
    let run = |job: IsolatedJob| {
        let handler = Arc::clone(&handler);
        async move { job.run(&*handler).await }
    };
    runtime().block_on(run_isolated(run)).expect("the worker listens");
}
