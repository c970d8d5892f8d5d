//! Opens the database for commands that neither create nor migrate tables. Redis records which database its jobs belong
//! to, so a mistyped DATABASE_URL is refused. Otherwise it would lead to a database that seems to have no orders.

use std::time::Duration;

use tokio::time::timeout;

use super::{connect, failed};
use crate::config::{RedisSettings, StoreSettings};
use crate::deployment::Shared;
use crate::orders::{self, Access, SqlStore};
use crate::redis::{Connection, Names, describe};

/// Maximum wait for Redis in commands that can work without it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the database for reading, without an encryption key. Fails if the jobs in Redis belong to another database.
pub(super) async fn open_to_read(
    settings: &StoreSettings,
    redis: &RedisSettings,
) -> anyhow::Result<SqlStore> {
    let store = orders::open_existing(settings.database_url()?, None, Access::Read).await?;
    must_belong_if_known(&store, redis).await?;
    Ok(store)
}

/// Fails if the jobs in Redis belong to another database. Returns whether Redis names the database of its jobs; if
/// Redis does not answer, a warning is logged and the result is `false`.
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
    tracing::warn!(
        error = why,
        "Redis could not be read, so it was not checked that its jobs belong to this database"
    );
    Ok(false)
}

/// Opens the database for changes, without an encryption key. Fails if the jobs in Redis belong to another database.
pub(super) async fn open_beside(
    settings: &StoreSettings,
    connection: &Connection,
    names: &Names,
) -> anyhow::Result<SqlStore> {
    let store = orders::open_existing(settings.database_url()?, None, Access::Write).await?;
    must_belong(&store, connection, names).await?;
    Ok(store)
}

/// Fails if the jobs in Redis belong to another database, or if a newer version of this program wrote them.
pub(super) async fn must_belong(
    store: &SqlStore,
    connection: &Connection,
    names: &Names,
) -> anyhow::Result<()> {
    let shared = Shared::read(&mut connection.get(), names).await.map_err(failed)?;
    shared.check(names, Some(&store.id().await?)).map_err(Into::into)
}

/// Whether a worker has ever run with this Redis and prefix; `None` if Redis cannot be read in time.
pub(super) async fn has_had_workers(connection: &Connection, names: &Names) -> Option<bool> {
    let shared = timeout(PATIENCE, Shared::read(&mut connection.get(), names)).await.ok()?.ok()?;
    Some(shared.store.is_some())
}

/// Fails if no worker has ever run with this Redis and prefix, because no worker would read the command's messages.
pub(super) async fn workers_must_have_run(connection: &Connection, names: &Names) -> anyhow::Result<()> {
    anyhow::ensure!(
        has_had_workers(connection, names).await != Some(false),
        "nothing was sent: no worker has run under {names} in this Redis. Set REDIS_URL and TOPUP_PREFIX to the \
         workers' values; if Redis has just lost its data, run this again in half a minute"
    );
    Ok(())
}

/// Fails if a newer version of this program wrote the keys in Redis, because this version does not know their layout.
pub(super) async fn layout_must_be_known(connection: &Connection, names: &Names) -> anyhow::Result<()> {
    let shared = Shared::read(&mut connection.get(), names).await.map_err(failed)?;
    shared.check_layout(names).map_err(Into::into)
}
