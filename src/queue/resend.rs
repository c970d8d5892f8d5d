//! Notifications that an operator wants sent now: one script, whatever has become of their jobs.

use redis::RedisResult;
use topup_jobs::{JobName, NotifyCustomer};

use super::scripts;
use crate::job::NextJob;
use crate::redis::{Connection, Names};

/// What became of the job of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resent {
    /// It was a dead letter and is due.
    Replayed,
    /// It waited for its time and is due.
    Hastened,
    /// It was due already, or a worker has it.
    UnderWay,
    /// There was none; there is one now.
    Added,
}

/// Marks those of these notifications that are dead letters: they are about to be pending in the store, and a worker
/// completes a replay that ends in between.
pub(crate) async fn mark_dead_letters(
    connection: &Connection,
    names: &Names,
    notifications: impl Iterator<Item = &NotifyCustomer>,
) -> RedisResult<()> {
    let mut call = scripts::DEAD_MARK.key(names.queue(JobName::NotifyCustomer));
    for notification in notifications {
        call.arg(notification.job_id());
    }
    call.invoke_async::<Vec<bool>>(&mut connection.get()).await.map(drop)
}

/// Makes these notifications due, each of which the store holds as pending.
pub(crate) async fn resend(
    connection: &Connection,
    names: &Names,
    notifications: &[NotifyCustomer],
) -> RedisResult<Vec<Resent>> {
    let mut call = scripts::RESEND.key(names.queue(JobName::NotifyCustomer));
    for job in notifications.iter().map(NextJob::notify) {
        call.arg(job.id).arg(job.payload);
    }
    let results: Vec<String> = call.invoke_async(&mut connection.get()).await?;
    let read = |result: &String| match result.as_str() {
        "replayed" => Resent::Replayed,
        "hastened" => Resent::Hastened,
        "added" => Resent::Added,
        _ => Resent::UnderWay,
    };
    Ok(results.iter().map(read).collect())
}
