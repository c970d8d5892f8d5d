//! `topup-worker adopt-store`: records in Redis that the jobs there belong to another database from now on, the one of
//! DATABASE_URL. The command fails while a worker runs, because that worker would continue to use the former database.

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
            "{workers} workers run under {names}: stop every one of them first; a killed worker counts for 5 s more"
        ),
        Adopted::Done(Some(before)) => say(format_args!(
            "the jobs in Redis under {names} now belong to store {id} instead of store {before}. Some notifications \
             may be sent twice, see docs/operations.md, Move, back up, restore"
        )),
        Adopted::Done(None) => say(format_args!("the jobs in Redis under {names} now belong to store {id}")),
    }
}
