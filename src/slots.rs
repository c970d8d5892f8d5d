//! The slots of a queue: how many of its jobs a worker runs at once.
//!
//! A job that only waits for an answer over the network needs little more than a connection. Such a job can get a spare
//! slot, so that it blocks no other job. The number of spare slots limits the number of such jobs.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The slots of one queue of a worker. Clones share the same slots.
#[derive(Debug, Clone)]
pub struct Slots {
    size: usize,
    most_lent: usize,
    /// Permits to run a job: one for each slot, and one for each spare slot while it is lent.
    running: Arc<Semaphore>,
    /// Permits to lend a spare slot: one for each spare slot that is not lent.
    spare: Arc<Semaphore>,
}

impl Slots {
    /// Creates `size` slots and, on top of them, `spare` slots that can be lent.
    #[must_use]
    pub fn new(size: usize, spare: usize) -> Self {
        Self {
            size,
            most_lent: spare,
            running: Arc::new(Semaphore::new(size)),
            spare: Arc::new(Semaphore::new(spare)),
        }
    }

    /// The number of slots without the spare ones.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Lends a spare slot until the returned value is dropped. `None` if all spare slots are lent.
    #[must_use]
    pub(crate) fn lend(&self) -> Option<LentSlot> {
        let spare = Arc::clone(&self.spare).try_acquire_owned().ok()?;
        self.running.add_permits(1);
        Some(LentSlot { running: Arc::clone(&self.running), _spare: spare })
    }

    /// The number of jobs that can run at once with all spare slots lent.
    pub(crate) fn most(&self) -> usize {
        self.size + self.most_lent
    }

    pub(crate) fn running(&self) -> Arc<Semaphore> {
        Arc::clone(&self.running)
    }
}

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
        // All slots are in use, so a task removes the next one that becomes free. Without a runtime no job holds a slot.
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
    async fn a_lent_slot_is_withdrawn_at_once_or_when_the_next_slot_becomes_free() {
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
