//! Corrects due times after the clock of Redis was moved back, so that no scheduled job waits an hour or a year too
//! long. Each due time also encodes the intended wait, so it can be checked by itself: at any time, by any number
//! of workers, and without harm if the clock only seemed to have changed because a worker was frozen. If the clock was
//! moved forward, jobs run early, which needs no correction.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::scripts;
use super::shared::Shared;
use crate::redis::{Backoff, Connection};

/// Jobs checked per call: about a millisecond of work for Redis.
const MAX_LOOKED_AT: usize = 1_000;
/// Pause between two calls, in which Redis serves other clients.
const BREATHER: Duration = Duration::from_millis(5);

/// Interval, by this host's clock, at which some scheduled jobs are checked even if no change of the clock was noticed.
const UNASKED_EVERY: Duration = Duration::from_secs(20);
/// Most calls per queue in a check for which no change of the clock was noticed. The next such check continues there.
const UNASKED_GOES: usize = 5;

/// The cursor at the first job of a queue.
const BEGINNING: &str = "-inf";

/// Corrects due times in these queues: checks all when `asked` is notified, and some every [`UNASKED_EVERY`].
pub(super) async fn put_right(queues: Vec<Arc<Shared>>, connection: Connection, asked: Arc<Notify>) {
    let mut cursors = vec![BEGINNING.to_owned(); queues.len()];
    loop {
        let was_asked = timeout(UNASKED_EVERY, asked.notified()).await.is_ok();
        for (shared, cursor) in queues.iter().zip(&mut cursors) {
            let goes = if was_asked { usize::MAX } else { UNASKED_GOES };
            if was_asked {
                BEGINNING.clone_into(cursor);
            } else if !shared.some_wait.load(Ordering::Relaxed) {
                continue;
            }
            let moved = put_queue_right(&shared.queue, &connection, cursor, goes).await;
            if moved > 0 {
                let queue = &shared.queue;
                tracing::warn!(queue, moved, "the clock of Redis was moved back; due times were corrected");
            }
        }
    }
}

/// Corrects due times in a queue from the cursor on, with at most `goes` calls. Returns the number of corrected jobs.
async fn put_queue_right(queue: &str, connection: &Connection, cursor: &mut String, goes: usize) -> u64 {
    let (mut moved, mut left, mut backoff) = (0, goes, Backoff::new());
    while left > 0 {
        let mut call = scripts::PUT_RIGHT.key(queue);
        let answer = call.arg(&*cursor).arg(MAX_LOOKED_AT).invoke_async(&mut connection.get()).await;
        let (next, of_these): (String, u64) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                connection.failed(&error);
                backoff.wait().await;
                continue;
            }
        };
        backoff = Backoff::new();
        moved += of_these;
        left -= 1;
        if next.is_empty() {
            BEGINNING.clone_into(cursor);
            break;
        }
        *cursor = next;
        tokio::time::sleep(BREATHER).await;
    }
    moved
}
