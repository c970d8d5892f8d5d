//! A worker process that crashes at a given step: this test binary, started again with the ignored test below in
//! place of `main`. It is composed like the real program, with [`Stepped`] around the store, provider and channels.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use clap::Parser;
use topup_worker::app;
use topup_worker::config::RunSettings;
use topup_worker::shutdown::Shutdown;

use super::stepped::{Stepped, Steps};
use crate::support::{Bed, until};

const STEP: &str = "TEST_STEP";

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    run: RunSettings,
}

/// The worker process. Dropping it kills the process.
pub(super) struct SteppedWorker(Child);

impl SteppedWorker {
    /// Starts a worker with the settings of the bed that crashes at this step.
    pub(super) fn start(bed: &Bed, step: u32) -> Self {
        let module = module_path!().split_once("::").map_or("", |(_, path)| path);
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["--exact", &format!("{module}::worker_process"), "--ignored", "--nocapture"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.envs(bed.settings().iter().map(|(name, value)| (*name, value))).env(STEP, step.to_string());
        Self(command.spawn().expect("the program starts"))
    }

    /// Waits until the worker has crashed.
    pub(super) async fn crashes(&mut self) {
        let status =
            until("the worker crashes", async || self.0.try_wait().expect("the process is a child")).await;
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        assert_eq!(signal, Some(6), "the worker ended without a crash: {status}");
    }
}

impl Drop for SteppedWorker {
    fn drop(&mut self) {
        let killed = self.0.kill().and_then(|()| self.0.wait());
        assert!(killed.is_ok() || std::thread::panicking(), "the worker could not be killed");
    }
}

#[test]
#[ignore = "this is the main function of a worker process; tests start it"]
fn worker_process() {
    let Ok(step) = std::env::var(STEP) else { return };
    let steps = Steps::new(step.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let config = Settings::parse_from(["worker"]).run.validate().expect("the settings are valid");
        let shutdown = Shutdown::new();
        app::run_with(config, shutdown, |environment| {
            let inner = Arc::clone(&environment.store);
            environment.store = Arc::new(Stepped { inner, steps: steps.clone() });
            for api in &mut environment.apis {
                *api = Arc::new(Stepped { inner: Arc::clone(api), steps: steps.clone() });
            }
            environment.channels.decorate(|inner| Arc::new(Stepped { inner, steps: steps.clone() }));
        })
        .await
        .expect("the worker starts");
    });
}
