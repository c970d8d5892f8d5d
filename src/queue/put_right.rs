//! Puts due times right once the clock of Redis was set, or may have been.
//!
//! A clock that was set back leaves jobs scheduled for an hour, or a year, further ahead than they were meant to
//! wait. Each due time says how long that was, so each can be put right by itself: no job waits for longer than it
//! was ever meant to. That may be done at any time, by any number of workers, and whether the clock was set or a
//! worker was only frozen. A clock that was set ahead has jobs run early, and nothing is to be put right: what they
//! schedule then is.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::connection::{Connection, Pause};
use super::consumer::Shared;
use super::scripts;

/// Jobs that are looked at in one go: about a millisecond of Redis.
const MOST_LOOKED_AT: usize = 1_000;
/// Redis has others to serve in between.
const BREATHER: Duration = Duration::from_millis(5);

/// Looks through all that waits in these queues, each time it is asked to.
pub(super) async fn put_right(queues: Vec<Arc<Shared>>, connection: Connection, asked: Arc<Notify>) {
    loop {
        asked.notified().await;
        for shared in &queues {
            let moved = put_queue_right(&shared.queue, &connection).await;
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

async fn put_queue_right(queue: &str, connection: &Connection) -> u64 {
    let (mut from, mut moved, mut pause) = ("-inf".to_owned(), 0, Pause::new());
    while !from.is_empty() {
        let mut call = scripts::PUT_RIGHT.key(queue);
        let answer = call.arg(&from).arg(MOST_LOOKED_AT).invoke_async(&mut connection.get()).await;
        let (next, of_these): (String, u64) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                connection.failed(&error);
                pause.wait().await;
                continue;
            }
        };
        pause = Pause::new();
        moved += of_these;
        from = next;
        tokio::time::sleep(BREATHER).await;
    }
    moved
}
