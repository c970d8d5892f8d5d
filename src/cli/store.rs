//! The database as a command opens it that only shows or changes what is there: such a command makes and migrates nothing.

use super::failed;
use crate::config::StoreSettings;
use crate::deployment::Shared;
use crate::orders::{self, Access, SqlStore};
use crate::queue::{Connection, Names};

/// Opens the database to read from it, without any key.
pub(super) async fn open_to_read(settings: &StoreSettings) -> anyhow::Result<SqlStore> {
    Ok(orders::open_existing(settings.database_url()?, None, Access::Read).await?)
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

/// Refuses to change what a newer program has laid out in Redis.
pub(super) async fn layout_must_be_known(connection: &Connection, names: &Names) -> anyhow::Result<()> {
    let shared = Shared::read(&mut connection.get(), names).await.map_err(failed)?;
    shared.check_layout(names).map_err(Into::into)
}
