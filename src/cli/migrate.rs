//! `topup-worker migrate`. `run` does the same at its start.

use clap::Args;

use super::say;
use crate::config::StoreSettings;
use crate::orders::{self, CardCipher};

#[derive(Debug, Args)]
pub(super) struct MigrateSettings {
    #[command(flatten)]
    store: StoreSettings,
}

pub(super) async fn migrate(settings: &MigrateSettings) -> anyhow::Result<()> {
    // The tables do not depend on the key.
    let cipher = match settings.store.encryption_key {
        Some(_) => settings.store.cipher()?,
        None => CardCipher::new(&CardCipher::generate_key())?,
    };
    orders::open(settings.store.database_url()?, cipher).await?;
    say("the tables are up to date")
}
