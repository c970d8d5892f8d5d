//! Puts due times right once the clock of Redis was set, or may have been.
//!
//! A clock that was set back leaves jobs scheduled for an hour, or a year, further ahead than they were meant to
//! wait. Each due time says how long that was, so each can be put right by itself: no job waits for longer than it
//! was ever meant to. That may be done at any time, by any number of workers, and whether the clock was set or a
//! worker was only frozen. A clock that was set ahead has jobs run early, and nothing is to be put right: what they
//! schedule then is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::scripts;
use super::shared::Shared;
use crate::redis::{Backoff, Connection};

/// Jobs that are looked at in one go: about a millisecond of Redis.
const MAX_LOOKED_AT: usize = 1_000;
/// Redis has others to serve in between.
const BREATHER: Duration = Duration::from_millis(5);

/// How often a part of what waits is looked through without having been asked for. Real time.
const UNASKED_EVERY: Duration = Duration::from_secs(20);
/// How large that part is: so many goes.
const UNASKED_GOES: usize = 5;

/// From its first job on.
const BEGINNING: &str = "-inf";

/// Looks through all that waits in these queues each time it is asked to, and through a part of it from time to time.
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
                tracing::warn!(
                    queue,
                    moved,
                    "the clock of Redis was set back: jobs run when they were meant to"
                );
            }
        }
    }
}

/// Looks through a queue from the cursor on, to its end or for so many goes, and leaves the cursor where to go on.
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
