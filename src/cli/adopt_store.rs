//! `topup-worker adopt-store`: has the jobs in Redis belong to the database of DATABASE_URL, which takes the place of
//! another one. Only while no worker runs: a worker of the former database would go on with jobs that are not its own.

use clap::Args;

use super::{connect, failed, say};
use crate::config::{RedisSettings, StoreSettings};
use crate::deployment::{Adopted, Shared, adopt};
use crate::orders::{self, Access};

#[derive(Debug, Args)]
pub(super) struct AdoptStoreSettings {
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    store: StoreSettings,
}

pub(super) async fn adopt_store(settings: AdoptStoreSettings) -> anyhow::Result<()> {
    let connection = connect(&settings.redis)?;
    let names = &settings.redis.prefix;
    let store = orders::open_existing(settings.store.database_url()?, None, Access::Read).await?;
    let id = store.id().await?;
    let shared = Shared::read(&mut connection.get(), names).await.map_err(failed)?;
    shared.check_layout(names)?;
    match adopt(&connection, names, &id).await.map_err(failed)? {
        Adopted::InUse(workers) => anyhow::bail!(
            "{workers} workers run under {names}: stop every one of them first; one that was killed counts for five \
             seconds more"
        ),
        Adopted::Done(Some(before)) => say(format_args!(
            "the jobs in Redis under {names} belong to store {id} now; before, they belonged to store {before}. What is \
             notified twice then: docs/operations.md, Move, back up, restore"
        )),
        Adopted::Done(None) => say(format_args!("the jobs in Redis under {names} belong to store {id}")),
    }
}
