//! Opens the database of a worker and has the worker join its deployment.

use super::environment::{open_store, store_error};
use crate::config::Config;
use crate::deployment::Membership;
use crate::maintenance::store_watch::{StoreHealth, StoreWatch};
use crate::orders::{NO_ANSWER, StoreError};
use crate::redis::{Backoff, Connection};

/// Opens the store and joins the deployment. Retries while the database is unusable for a reason that may pass.
pub(super) async fn join(
    config: &Config,
    connection: &Connection,
    health: &StoreHealth,
) -> anyhow::Result<(Membership, StoreWatch)> {
    let mut backoff = Backoff::new();
    loop {
        match Box::pin(join_now(config, connection, health)).await {
            Ok(taken) => {
                health.answered();
                return Ok(taken);
            }
            Err(error) => {
                let passing = error.downcast_ref().filter(|why: &&StoreError| why.may_pass());
                let Some(fault) = passing.map(|why| why.fault().unwrap_or(NO_ANSWER)) else {
                    return Err(error);
                };
                health.failed(fault, &format!("{error:#}"));
                backoff.wait().await;
            }
        }
    }
}

async fn join_now(
    config: &Config,
    connection: &Connection,
    health: &StoreHealth,
) -> anyhow::Result<(Membership, StoreWatch)> {
    let store = open_store(config, connection, health).await?;
    let store_id = health.at_start(store.id()).await.map_err(store_error)?;
    health.at_start(store.rehearse()).await.map_err(store_error)?;
    let keys = config.cipher.fingerprints();
    let membership = Membership::new(connection.clone(), config.names.clone(), store_id.clone(), &keys);
    membership.join().await?;
    // Records the worker's current key in the database, after joining, so that a refused worker records none.
    if let Err(error) = health.at_start(store.admit_keys()).await {
        membership.leave().await;
        return Err(store_error(error));
    }
    Ok((membership, StoreWatch::new(store, store_id, health.clone())))
}
