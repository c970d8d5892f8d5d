//! While the database does not answer in time, jobs wait without losing attempts, and a delivered
//! notification is not sent again because its result could not be stored.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use sqlx::{Connection as _, Executor as _};
use topup_jobs::{OrderStatus, TopupId};
use topup_worker::orders::{NotificationStatus, OrderStore};
use topup_worker::simulator::Script;

use crate::support::{Bed, Sink, until};

/// SQLite's write lock, held as by another process in the middle of a write. Dropping this releases it.
pub(crate) struct Lock {
    release: Option<mpsc::Sender<()>>,
    holding: Option<JoinHandle<()>>,
}

impl Lock {
    /// Returns once the lock is held. Can be called outside async code.
    pub(crate) fn take(database_url: &str) -> Self {
        let url = database_url.to_owned();
        let (release, released) = mpsc::channel();
        let (acquired, is_acquired) = mpsc::channel();
        let holding = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
                connection.execute("PRAGMA busy_timeout = 30000").await.unwrap();
                connection.execute("BEGIN IMMEDIATE").await.unwrap();
                acquired.send(()).unwrap();
                let _ = released.recv();
                connection.execute("ROLLBACK").await.unwrap();
            });
        });
        is_acquired.recv().unwrap();
        Self { release: Some(release), holding: Some(holding) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(self.release.take());
        let ended = self.holding.take().is_some_and(|holding| holding.join().is_ok());
        assert!(ended || std::thread::panicking(), "the lock is released");
    }
}

pub(crate) fn database_url(bed: &Bed) -> String {
    bed.settings().iter().find(|(name, _)| *name == "DATABASE_URL").unwrap().1.clone()
}

#[tokio::test]
async fn an_order_waits_for_a_database_that_does_not_answer() {
    let bed = Bed::new(60.0).await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let worker = bed.worker().await;
    let lock = Lock::take(&database_url(&bed));
    bed.enqueue([&order]).await;
    worker.logs("the store failed; the job waits").await;
    assert!(worker.log().contains("the database did not answer within 10 s"), "{}", worker.log());
    let meta: usize = bed.redis(&["EXISTS", &format!("{{topup}}:poll-topup:meta:{order}")]).await;
    assert_eq!(meta, 0, "the job has no failed attempt");
    drop(lock);
    bed.delivered(&order, "fulfilled").await;
    bed.stored(std::slice::from_ref(&order), OrderStatus::Fulfilled).await;
}

#[tokio::test]
async fn a_notification_whose_result_cannot_be_stored_is_not_sent_again() {
    let mut bed = Bed::new(60.0).await;
    let url = database_url(&bed);
    let (locked, held) = mpsc::channel();
    // When the receiver gets the event, the database is locked.
    let sink = Sink::default();
    let address = sink.listen_with(move |_| drop(locked.send(Lock::take(&url)))).await;
    bed.set("WEBHOOK_URL", address);
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let worker = bed.worker().await;
    bed.enqueue([&order]).await;
    worker.logs("the job stores the result later and does not send again").await;
    drop(held.recv().unwrap());
    let store = bed.store().await;
    let id: TopupId = order.parse().unwrap();
    until("every notification is stored as sent", async || {
        let rows = store.notifications(&id).await.ok()?;
        (rows.len() == 2 && rows.iter().all(|one| one.status == NotificationStatus::Sent)).then_some(())
    })
    .await;
    bed.idle().await;
    assert_eq!(sink.received().len(), 1);
}
