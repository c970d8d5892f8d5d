//! A pause in which a worker claims no jobs. Jobs that the worker has already claimed continue.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A pause that can be started, prolonged and ended at any time. Clones share one pause.
#[derive(Debug, Clone)]
pub struct ClaimPause(Arc<watch::Sender<Instant>>);

impl Default for ClaimPause {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Instant::now())))
    }
}

impl ClaimPause {
    /// Pauses the claiming of jobs for the time `pause`, counted from now. This pause replaces an earlier one.
    pub(crate) fn pause_for(&self, pause: Duration) {
        self.0.send_replace(Instant::now() + pause);
    }

    pub(crate) fn end(&self) {
        self.0.send_replace(Instant::now());
    }

    /// Waits until jobs may be claimed.
    pub(crate) async fn over(&self) {
        let mut until = self.0.subscribe();
        loop {
            let end = *until.borrow_and_update();
            if end <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(end) => {}
                changed = until.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_ends_by_itself_or_when_it_is_ended() {
        let pause = ClaimPause::default();
        pause.over().await;
        pause.pause_for(Duration::from_millis(20));
        pause.over().await;
        pause.pause_for(Duration::from_hours(1));
        let clone = pause.clone();
        tokio::join!(pause.over(), async { clone.end() });
    }

    #[tokio::test]
    async fn a_prolonged_pause_lasts_until_its_new_end() {
        let pause = ClaimPause::default();
        pause.pause_for(Duration::from_millis(20));
        pause.pause_for(Duration::from_hours(1));
        let over = tokio::time::timeout(Duration::from_millis(100), pause.over());
        assert!(over.await.is_err());
    }
}
