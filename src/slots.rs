//! The slots of a queue: how many of its jobs a worker runs at once.
//!
//! A job that does nothing but wait for the answer of another program costs a connection and no more. A spare slot can be
//! lent for it, so that it keeps no other job from running; the number of spare slots bounds what such jobs may cost.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Slots of one queue of one worker. Clones are the same slots.
#[derive(Debug, Clone)]
pub struct Slots {
    size: usize,
    most_lent: usize,
    /// One permit for each job that may run now.
    running: Arc<Semaphore>,
    /// One permit for each slot that may be lent.
    spare: Arc<Semaphore>,
}

impl Slots {
    /// So many slots, and so many that can be lent beyond them.
    #[must_use]
    pub fn new(size: usize, spare: usize) -> Self {
        Self {
            size,
            most_lent: spare,
            running: Arc::new(Semaphore::new(size)),
            spare: Arc::new(Semaphore::new(spare)),
        }
    }

    /// How many there are, without those that can be lent.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Has one more job run until what is returned is dropped. Nothing where all spare slots are lent.
    #[must_use]
    pub(crate) fn lend(&self) -> Option<LentSlot> {
        let spare = Arc::clone(&self.spare).try_acquire_owned().ok()?;
        self.running.add_permits(1);
        Some(LentSlot { running: Arc::clone(&self.running), _spare: spare })
    }

    /// Most jobs that can run at once, the lent slots included.
    pub(crate) fn most(&self) -> usize {
        self.size + self.most_lent
    }

    pub(crate) fn running(&self) -> Arc<Semaphore> {
        Arc::clone(&self.running)
    }
}

/// A slot beyond the others, until it is dropped.
#[derive(Debug)]
pub(crate) struct LentSlot {
    running: Arc<Semaphore>,
    _spare: OwnedSemaphorePermit,
}

impl Drop for LentSlot {
    fn drop(&mut self) {
        if self.running.forget_permits(1) == 1 {
            return;
        }
        // All are taken: the next one that comes free is not taken again. Without a runtime no job runs any more.
        if let Ok(runtime) = Handle::try_current() {
            let running = Arc::clone(&self.running);
            runtime.spawn(async move {
                if let Ok(slot) = running.acquire_owned().await {
                    slot.forget();
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slot_that_was_lent_is_taken_back_at_once_or_with_the_next_that_comes_free() {
        let slots = Slots::new(1, 1);
        let running = slots.running();
        let first = Arc::clone(&running).try_acquire_owned().unwrap();
        let lent = slots.lend().unwrap();
        assert!(slots.lend().is_none(), "there is one spare slot");
        let second = Arc::clone(&running).try_acquire_owned().unwrap();
        assert!(running.try_acquire().is_err());
        drop(lent);
        drop(first);
        while running.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        drop(second);
        assert_eq!(running.available_permits(), 1);
        drop(slots.lend().unwrap());
        assert_eq!(running.available_permits(), 1);
    }
}
