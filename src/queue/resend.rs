//! Makes the jobs of notifications due at once for an operator, whatever the state of these jobs.

use redis::RedisResult;
use topup_jobs::{JobName, NotifyCustomer};

use super::scripts;
use crate::job::NextJob;
use crate::redis::{Connection, Names};

/// What [`resend`] did with the job of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resent {
    /// The job was a dead letter and is due now.
    Replayed,
    /// The job was scheduled and is due now.
    Hastened,
    /// The job was due or claimed already.
    UnderWay,
    /// No queue held the job; it was added.
    Added,
}

/// Marks the dead letters of these notifications as being replayed. After that, the command makes the notifications
/// pending in the database and their jobs due. If the command dies before the end, a worker completes the replay.
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

/// Makes the jobs of these notifications due. The notifications must be pending in the database.
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
