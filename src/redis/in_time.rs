//! How long Redis may take to answer.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::FutureExt;
use redis::RedisResult;

pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long finding the master may take. Each question has a limit of its own; this is for what has none.
pub(super) const FIND_TIMEOUT: Duration = Duration::from_secs(15);

/// What is asked, or an error where the answer takes longer than this.
pub(super) fn in_time<T>(
    limit: Duration,
    asked: impl Future<Output = RedisResult<T>>,
) -> impl Future<Output = RedisResult<T>> {
    let late = |_elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time").into());
    tokio::time::timeout(limit, asked).map(move |answered| answered.unwrap_or_else(late))
}
