//! `topup-worker demo`: shows the main job of the service in a minute; only the provider is simulated. The demo runs a
//! private Redis, the simulator, a shop that receives signed webhooks, and two real worker processes. Orders are handed
//! over as by any producer, and one worker is killed while it runs jobs. At the end every order and event is compared
//! between provider, store and shop. The demo must not touch the user's machine: it uses a temporary folder and free
//! loopback ports, gives the workers no setting of the user's environment, and ends all its processes. It must print no
//! card, phone number or e-mail address, and must not repair mistakes of the service.

mod ledger;
mod narrator;
mod producer;
mod screen;
mod shop;
mod stage;
mod story;
mod verdict;

use std::future::Future;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::screen::Screen;
use self::stage::Stage;
use self::verdict::Verdict;
use super::private::{Folder, redis_server};

/// One hour of domain time (the time that orders and workers see) passes in one second of real time.
const TIME_SCALE: f64 = 3600.0;

#[derive(Debug, Args)]
pub(super) struct DemoSettings {
    /// Orders to send, from 10 to 500
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=500))]
    orders: u32,

    /// Seed of the simulator: with the same seed each order takes the same time
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) async fn demo(settings: DemoSettings) -> anyhow::Result<()> {
    let redis_server = redis_server::find()?;
    let stop = stop_signal()?;
    let mut folder = Folder::make()?;
    // This function owns `stage`, so that the workers and then Redis are stopped properly even if `story::play` fails.
    let mut stage = Stage::new();
    let screen = Screen::new(settings.orders);
    let played = tokio::select! {
        played = story::play(&settings, &redis_server, &folder, &mut stage, &screen) => played,
        () = stop => {
            screen.close();
            stage.clear().await;
            anyhow::bail!("the demo was stopped before its end; all its processes have ended");
        }
    };
    screen.close();
    stage.clear().await;
    let shown = played.and_then(|verdict| show(&verdict));
    if let Err(error) = &shown
        && !is_closed_output(error)
    {
        folder.keep_logs();
        tracing::error!("the demo failed; its logs are in {}", folder.path().display());
    }
    shown
}

fn show(verdict: &Verdict) -> anyhow::Result<()> {
    for line in verdict.lines() {
        super::say(line)?;
    }
    match verdict.problems().len() {
        0 => Ok(()),
        problems => anyhow::bail!("the demo found {problems} problems"),
    }
}

/// Whether another program, such as `head`, has closed standard output. The demo has not failed then.
fn is_closed_output(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Completes on SIGINT (Ctrl-C), SIGTERM or SIGHUP (the terminal was closed).
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}
