//! `topup-worker migrate`: creates the database or brings its tables up to date, as `run` does when it starts.

use clap::Args;

use super::say;
use crate::config::StoreSettings;
use crate::orders;

#[derive(Debug, Args)]
pub(super) struct MigrateSettings {
    #[command(flatten)]
    store: StoreSettings,
}

pub(super) async fn migrate(settings: &MigrateSettings) -> anyhow::Result<()> {
    orders::migrate(settings.store.database_url()?).await?;
    say("the tables are up to date")
}
