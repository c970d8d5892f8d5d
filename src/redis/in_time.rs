//! Timeouts for the answers of Redis.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::FutureExt;
use redis::RedisResult;

pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout for finding the server, including the steps that have no timeout of their own.
pub(super) const FIND_TIMEOUT: Duration = Duration::from_secs(15);

/// Waits for an answer. Returns an error if it takes longer than `limit`.
pub(super) fn in_time<T>(
    limit: Duration,
    asked: impl Future<Output = RedisResult<T>>,
) -> impl Future<Output = RedisResult<T>> {
    let late = |_elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time").into());
    tokio::time::timeout(limit, asked).map(move |answered| answered.unwrap_or_else(late))
}
