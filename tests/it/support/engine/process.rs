//! Worker processes that run only the queue, with scripted handlers.
//!
//! Each is this test binary, started again to run one of the ignored tests below as its `main`. A test may kill, freeze
//! and abort it, and it settles jobs by the same code as the real program.

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

/// Environment variables with the settings of a worker process.
const REDIS: &str = "TEST_ENGINE_REDIS_URL";
const FOLDER: &str = "TEST_ENGINE_FOLDER";
const SLOTS: &str = "TEST_ENGINE_SLOTS";
const RECEIPTS: &str = "TEST_ENGINE_RECEIPTS";

/// File name of the diary in the folder that all processes of a test share.
pub(super) const DIARY: &str = "diary";

/// Settings of a worker process.
pub(crate) struct Settings {
    pub(crate) redis_url: String,
    pub(crate) slots: usize,
    pub(crate) receipts: bool,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Program and first arguments that start the worker process; empty: it is started directly.
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

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log contains `words`.
    pub(crate) async fn logs(&self, words: &str) {
        until(&format!("the worker logs {words:?}"), async || self.log().contains(words).then_some(())).await;
    }

    /// Fails if the process has ended.
    pub(crate) fn assert_runs(&mut self) {
        let ended = self.child.try_wait().expect("the worker is our child");
        assert_eq!(ended, None, "a worker ended:\n{}", self.log());
    }

    /// Kills the process (SIGKILL) and reaps it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the worker is our child");
        self.child.wait().expect("the killed worker is reaped");
        self.diary.write(&Entry::WorkerDied { owner: self.pid() });
    }

    /// Waits until the process ends by itself.
    pub(crate) async fn dies(&mut self) -> ExitStatus {
        let status = until("a worker dies", async || self.child.try_wait().expect("it is our child")).await;
        self.diary.write(&Entry::WorkerDied { owner: self.pid() });
        status
    }

    /// Sends SIGTERM and waits for the end. The status is success if all running jobs finished.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.ask_to_stop();
        self.dies().await
    }

    pub(crate) fn ask_to_stop(&self) {
        signal::send(&self.child, "TERM");
    }

    /// Freezes the process (SIGSTOP) until it is thawed. Returns once all its threads are stopped.
    pub(crate) fn freeze(&self) {
        self.mark_unreachable();
        signal::freeze(&self.child);
    }

    pub(crate) fn thaw(&self) {
        self.mark_reachable();
        signal::send(&self.child, "CONT");
    }

    /// Records that from now on other workers may run its jobs.
    pub(crate) fn mark_unreachable(&self) {
        self.diary.write(&Entry::Unreachable { owner: self.pid() });
    }

    /// Records that jobs it starts from now on must not run on other workers.
    pub(crate) fn mark_reachable(&self) {
        self.diary.write(&Entry::Reachable { owner: self.pid() });
    }
}

impl Drop for EngineWorker {
    fn drop(&mut self) {
        let killed = self.child.kill().and_then(|()| self.child.wait()).is_ok();
        if !std::thread::panicking() {
            assert!(killed, "a worker could not be killed");
            assert!(!self.log().contains("a task of the"), "a task died:\n{}", self.log());
        }
    }
}

/// This test binary, and the arguments that make it run one of the functions below.
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
        stop.on_signals().expect("signal handlers can be installed");
        let names: Names = super::PREFIX.parse().expect("a prefix");
        let address = RedisAddress::parse(&redis_url, &names).expect("an address");
        let queues = Queues::new(address, names, slots, &RedisHealth::default());
        let queues = queues.isolating(Isolation::new(isolated_command)).with(handler(std::process::id()));
        let stopped = queues.run(stop, Duration::from_secs(30)).await;
        assert_eq!(stopped, Stopped::Drained);
    });
}

#[test]
#[ignore = "this is the main function of a process for isolated jobs; workers start it"]
fn isolated_process() {
    if std::env::var_os(REDIS).is_none() {
        return;
    }
    // The test harness may have printed an unfinished line.
    println!();
    let handler = Arc::new(handler(std::os::unix::process::parent_id()));
    let run = |job: IsolatedJob| {
        let handler = Arc::clone(&handler);
        async move { job.run(&*handler).await }
    };
    runtime().block_on(run_isolated(run)).expect("the worker reads the result");
}
