//! A worker that is frozen beyond its lease in the middle of its jobs, and goes on: whatever it settles then is
//! no longer its own, and must not count.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::engine::{Act, Engine, Part, QUEUE};
use crate::support::until;

#[tokio::test]
async fn a_worker_frozen_for_fifteen_seconds_settles_nothing_that_is_not_its_own() {
    frozen(Duration::from_secs(15)).await;
}

#[tokio::test]
async fn a_worker_frozen_for_a_minute_settles_nothing_that_is_not_its_own() {
    frozen(Duration::from_mins(1)).await;
}

async fn frozen(time: Duration) {
    let engine = Engine::new().await;
    // All slots are taken, and so nothing is claimed that has not begun when the worker is frozen. Some of its
    // jobs have run elsewhere by the time it goes on, some run elsewhere at that moment.
    let done: Vec<Part> = (0..15).map(|n| Part::new(n, [Act::Finish.behind("early")])).collect();
    let waits: Vec<Part> =
        (20..30).map(|n| Part::new(n, [Act::Wait(200).behind("early"), Act::Finish.at_once()])).collect();
    let running: Vec<Part> = (40..55).map(|n| Part::new(n, [Act::Finish.behind("late")])).collect();
    let held = [done, waits, running].concat();
    let mut frozen = engine.worker(held.len()).await;
    engine.push(&held).await;
    engine.begun(held.len(), |_| true).await;
    let mut other = engine.worker(held.len()).await;
    frozen.freeze();
    let until_then = sleep(time);
    let waiting: Vec<Part> =
        (100..160).map(|n| Part::new(n, [Act::Finish.taking(Duration::from_millis(50))])).collect();
    engine.push(&waiting).await;
    engine.open("early");
    until("the other has done what it can", async || {
        let ledger = engine.ledger().await.ok()?;
        (ledger.running.len() == 15 && ledger.scheduled.is_empty()).then_some(())
    })
    .await;
    until_then.await;
    frozen.thaw();
    frozen.logs("starts under a new name").await;
    engine.open("late");
    frozen.logs("their results are dropped").await;
    engine.account(&[held, waiting].concat()).await;
    // It works on, and under a name that nobody has taken for dead.
    let next: Vec<Part> = (200..230).map(|n| Part::new(n, [Act::Finish.behind("next")])).collect();
    let started = other.stop().await;
    assert!(started.success(), "{}", other.log());
    engine.push(&next).await;
    engine
        .begun(next.len(), |run| run.owner == frozen.pid() && next.iter().any(|part| part.id == run.job))
        .await;
    engine.open("next");
    until("all is done", async || {
        let ledger = engine.ledger().await.ok()?;
        ledger.payloads.is_empty().then_some(())
    })
    .await;
    frozen.assert_runs();
    assert!(frozen.stop().await.success(), "{}", frozen.log());
    let left: Vec<String> = engine.ask(&["KEYS", &format!("{QUEUE}:*")]).await;
    assert_eq!(left, Vec::<String>::new(), "nothing of it stays");
}
