//! The database as a command opens it that only shows or changes what is there: such a command makes and migrates nothing.
//!
//! A mistyped DATABASE_URL must not answer as if there were nothing: Redis knows to which database its jobs belong.

use std::time::Duration;

use tokio::time::timeout;

use super::{connect, failed};
use crate::config::{RedisSettings, StoreSettings};
use crate::deployment::Shared;
use crate::orders::{self, Access, SqlStore};
use crate::redis::{Connection, Names, describe};

/// How long Redis is waited for by what can do without it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the database to read from it, without any key. Where Redis answers, the jobs there must belong to it.
pub(super) async fn open_to_read(
    settings: &StoreSettings,
    redis: &RedisSettings,
) -> anyhow::Result<SqlStore> {
    let store = orders::open_existing(settings.database_url()?, None, Access::Read).await?;
    must_belong_if_known(&store, redis).await?;
    Ok(store)
}

/// Refuses a database that the jobs in Redis do not belong to, where Redis answers. Returns whether it knows which
/// database they belong to.
pub(super) async fn must_belong_if_known(store: &SqlStore, redis: &RedisSettings) -> anyhow::Result<bool> {
    let (connection, names) = (connect(redis)?, &redis.prefix);
    let why = match timeout(PATIENCE, Shared::read(&mut connection.get(), names)).await {
        Ok(Ok(shared)) => {
            shared.check_store(names, Some(&store.id().await?))?;
            return Ok(shared.store.is_some());
        }
        Ok(Err(error)) => describe(&error),
        Err(_elapsed) => "no answer in time".to_owned(),
    };
    tracing::warn!(error = why, "Redis could not be asked whether DATABASE_URL is the workers' database");
    Ok(false)
}

/// Opens the database to change it together with Redis, without any key. The jobs in Redis must belong to it.
pub(super) async fn open_beside(
    settings: &StoreSettings,
    connection: &Connection,
    names: &Names,
) -> anyhow::Result<SqlStore> {
    let store = orders::open_existing(settings.database_url()?, None, Access::Write).await?;
    must_belong(&store, connection, names).await?;
    Ok(store)
}

/// Refuses a database that the jobs in Redis do not belong to.
pub(super) async fn must_belong(
    store: &SqlStore,
    connection: &Connection,
    names: &Names,
) -> anyhow::Result<()> {
    let shared = Shared::read(&mut connection.get(), names).await.map_err(failed)?;
    shared.check(names, Some(&store.id().await?)).map_err(Into::into)
}

/// Whether a worker has run with this Redis and prefix; not known where Redis does not let that be read.
pub(super) async fn has_had_workers(connection: &Connection, names: &Names) -> Option<bool> {
    let shared = timeout(PATIENCE, Shared::read(&mut connection.get(), names)).await.ok()?.ok()?;
    Some(shared.store.is_some())
}

/// Refuses to send a message about a known order where no worker would read it.
pub(super) async fn workers_must_have_run(connection: &Connection, names: &Names) -> anyhow::Result<()> {
    anyhow::ensure!(
        has_had_workers(connection, names).await != Some(false),
        "nothing was sent: no worker has run under {names} in this Redis. Set REDIS_URL and TOPUP_PREFIX as the workers have \
         them; where Redis has just lost its data, run this again in half a minute"
    );
    Ok(())
}

/// Refuses to change what a newer program has laid out in Redis.
pub(super) async fn layout_must_be_known(connection: &Connection, names: &Names) -> anyhow::Result<()> {
    let shared = Shared::read(&mut connection.get(), names).await.map_err(failed)?;
    shared.check_layout(names).map_err(Into::into)
}
