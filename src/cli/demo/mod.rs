//! `topup-worker demo`: the main job in a minute, with nothing faked but the provider.
//!
//! A private Redis, the simulator of the provider's API, a shop that receives signed webhooks, and two real
//! workers as processes of their own. Orders go in as any producer sends them; a worker is killed in the
//! middle of its work; at the end both sides are compared, order by order and event by event.
//!
//! It must touch nothing of the person who runs it: every file lies in a folder of its own, every port is a
//! free one of the loopback, no setting of the environment reaches the workers, and nothing is left running.
//! It must print no card, phone number or e-mail address, and repair nothing that the service does wrong.

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

/// An hour passes in a second.
const TIME_SCALE: f64 = 3600.0;

#[derive(Debug, Args)]
pub(super) struct DemoSettings {
    /// Orders to send, from 10 to 500
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=500))]
    orders: u32,

    /// Seed of the orders' lives: the same seed gives the same outcomes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) async fn demo(settings: DemoSettings) -> anyhow::Result<()> {
    let redis_server = redis_server::find()?;
    let stop = stop_signal()?;
    let mut folder = Folder::make()?;
    // The processes live out here, so that they are ended in order however the story ends.
    let mut stage = Stage::new();
    let screen = Screen::new(settings.orders);
    let played = tokio::select! {
        played = story::play(&settings, &redis_server, &folder, &mut stage, &screen) => played,
        () = stop => {
            screen.close();
            stage.clear().await;
            anyhow::bail!("stopped before the end; nothing is left running");
        }
    };
    screen.close();
    stage.clear().await;
    let shown = played.and_then(|verdict| show(&verdict));
    if let Err(error) = &shown
        && !is_closed_output(error)
    {
        folder.keep_logs();
        tracing::error!("the logs of the demo are in {}", folder.path().display());
    }
    shown
}

fn show(verdict: &Verdict) -> anyhow::Result<()> {
    for line in verdict.lines() {
        super::say(line)?;
    }
    match verdict.problems().len() {
        0 => Ok(()),
        problems => anyhow::bail!("the demo went wrong: {problems} things are not as they must be"),
    }
}

/// Whether nobody reads any more: then nobody looks for logs either.
fn is_closed_output(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<std::io::Error>();
    error.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Waits for Ctrl-C, SIGTERM or the end of the terminal.
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
