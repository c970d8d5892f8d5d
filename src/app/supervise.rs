//! Waits for the end of a worker, and stops its parts in order.

use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio_util::task::TaskTracker;

use crate::deployment::Membership;
use crate::maintenance::store_watch::StoreWatch;
use crate::orders::SqlStore;
use crate::queue::Stopped;
use crate::shutdown::Shutdown;

/// How long a stopping worker waits for its last database calls.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// Runs the queues until a stop is requested, a background task ends or the worker is refused. Then stops the queues,
/// leaves the deployment and closes the database.
pub(super) async fn supervise(
    mut queues: JoinHandle<Stopped>,
    mut tasks: JoinSet<()>,
    recordings: TaskTracker,
    membership: Membership,
    watch: StoreWatch,
    shutdown: &Shutdown,
) -> anyhow::Result<Stopped> {
    let database = watch.store.clone();
    let mut refusal = None;
    let stopped = tokio::select! {
        stopped = &mut queues => stopped?,
        () = died(shutdown, &mut tasks) => {
            shutdown.request();
            queues.await?;
            Stopped::Failed
        }
        why = refused(&membership, watch, shutdown) => {
            tracing::error!("this worker stops, because it must not continue: {why:#}");
            shutdown.request();
            refusal = Some(why);
            queues.await?
        }
    };
    shutdown.request();
    end(&recordings, &membership, &database).await;
    if let Some(why) = refusal {
        return Err(why);
    }
    tracing::info!(?stopped, "the worker stopped");
    Ok(stopped)
}

/// Leaves the deployment, waits for the last recordings and closes the database. Tasks that still use the database end
/// with the process.
async fn end(recordings: &TaskTracker, membership: &Membership, database: &SqlStore) {
    membership.leave().await;
    recordings.close();
    let close = async {
        recordings.wait().await;
        database.close().await;
    };
    drop(tokio::time::timeout(CLOSED_WITHIN, close).await);
}

/// Waits until the deployment refuses this worker or its database must not be used any longer. Returns the reason.
async fn refused(membership: &Membership, watch: StoreWatch, shutdown: &Shutdown) -> anyhow::Error {
    let why = tokio::select! {
        why = membership.stay() => why.into(),
        why = watch.run() => why,
    };
    if shutdown.is_requested() {
        std::future::pending::<()>().await;
    }
    why
}

/// Waits until a background task of the worker ends without a shutdown.
async fn died(shutdown: &Shutdown, tasks: &mut JoinSet<()>) {
    tasks.join_next().await;
    if shutdown.is_requested() {
        std::future::pending::<()>().await;
    }
    tracing::error!("a background task ended unexpectedly; this worker stops");
}
