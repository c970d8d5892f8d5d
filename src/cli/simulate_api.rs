//! `topup-worker simulate-api`: serves the simulated provider API until it is asked to stop.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Args;

use crate::config::ClockSettings;
use crate::shutdown::Shutdown;
use crate::simulator::{Simulator, SimulatorSettings, serve};

#[derive(Debug, Args)]
pub(super) struct SimulateApiSettings {
    /// Address to listen on
    #[arg(long, env = "SIMULATOR_LISTEN", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(flatten)]
    clock: ClockSettings,
    #[command(flatten)]
    simulator: SimulatorSettings,
}

pub(super) async fn simulate_api(settings: SimulateApiSettings) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {}", settings.listen))?;
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    tracing::info!(address = %listener.local_addr()?, "the simulator of the provider's API is ready");
    let simulator = Simulator::new(settings.simulator, settings.clock.time_scale);
    serve(listener, simulator, async move { shutdown.requested().await }).await?;
    Ok(())
}
