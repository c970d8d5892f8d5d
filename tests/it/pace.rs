//! Orders are checked at the documented pace, never faster and never after the limit.
//!
//! The simulator measures the gaps in domain time. No check may be early; a few may be late on a busy machine.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Answer, Call, Fault, Script};

use crate::support::{Bed, until};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

fn since(earlier: &Call, later: &Call) -> Duration {
    later.at.saturating_sub(earlier.at)
}

/// For each call but the last, the time since the first call and the time until the next.
fn gaps(calls: &[Call]) -> impl Iterator<Item = (Duration, Duration)> {
    calls.windows(2).map(|pair| (since(&calls[0], &pair[0]), since(&pair[0], &pair[1])))
}

#[tokio::test]
async fn fast_polling_slows_down_and_ends_at_the_limit() {
    let bed = Bed::new(10.0).await;
    let id = bed.order(Script::handling_forever());
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let received = bed.delivered(&id, "delayed").await;
    assert_eq!(received.json()["data"]["status"], "DELAYED");
    let calls: Vec<Call> = bed.simulator.calls(&id);
    let (polling, later): (Vec<Call>, Vec<Call>) =
        calls.into_iter().partition(|call| call.at < Duration::from_mins(10));
    assert!(later.is_empty(), "the recheck comes after a quarter of an hour");
    assert!(polling.len() <= 60, "{} polls", polling.len());
    assert!(polling.len() > 25, "{} polls", polling.len());
    let mut prompt = 0;
    for (at, gap) in gaps(&polling) {
        // The worker counts from the arrival of the order, a little before the first call.
        let least = if at > 61 * SECOND {
            10
        } else if at > 31 * SECOND {
            5
        } else {
            3
        };
        assert!(gap >= least * SECOND * 9 / 10, "{gap:?} at {at:?}: too fast");
        assert!(at + least * SECOND * 9 / 10 <= 300 * SECOND, "the poll after {at:?} is past the limit");
        prompt += usize::from(gap <= least * SECOND * 11 / 10 + 4 * SECOND);
    }
    assert!(prompt > polling.len() / 2, "most polls come when they are due: {prompt} of {}", polling.len());
}

#[tokio::test]
async fn the_fixed_pace_is_five_seconds_and_sixty_polls() {
    let mut bed = Bed::new(30.0).await;
    bed.set("POLL_STRATEGY", "fixed");
    let id = bed.order(Script::handling_forever());
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.delivered(&id, "delayed").await;
    let calls = bed.simulator.calls(&id);
    assert!(calls.len() <= 60, "{} polls", calls.len());
    assert!(gaps(&calls).all(|(_, gap)| gap >= SECOND * 45 / 10), "{calls:?}");
}

#[tokio::test]
async fn a_queued_order_is_rechecked_after_24_hours_and_then_every_12() {
    // Twelve hours take more than seven seconds, and even on a busy machine no recheck is as late as that.
    let bed = Bed::new(6_000.0).await;
    let id = bed.order(Script::queued_forever());
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.delivered(&id, "overdue").await;
    bed.simulator.set_script(&id, Script::always(Answer::Fulfilled));
    bed.delivered(&id, "fulfilled").await;
    let gaps: Vec<Duration> = gaps(&bed.simulator.calls(&id)).map(|(_, gap)| gap).collect();
    assert!(gaps.len() >= 5, "{gaps:?}");
    assert!(gaps[0] >= 24 * HOUR && gaps[0] < 36 * HOUR, "{gaps:?}");
    assert!(gaps[1..].iter().all(|gap| *gap >= 12 * HOUR && *gap < 24 * HOUR), "{gaps:?}");
}

#[tokio::test]
async fn a_failing_recheck_is_retried_after_1_and_3_hours_and_then_dead_lettered() {
    // Two hours take more than three seconds, and no attempt is as late as that.
    let bed = Bed::new(2_250.0).await;
    let id = bed.order(Script::queued_forever());
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.delivered(&id, "scheduled").await;
    bed.simulator.set_script(&id, Script::always(Answer::Fault(Fault::InternalError500)));
    let received = bed.delivered(&id, "unresolved").await;
    assert_eq!(received.json()["data"]["status"], "SCHEDULED");
    let gaps: Vec<Duration> = gaps(&bed.simulator.calls(&id)).map(|(_, gap)| gap).collect();
    assert_eq!(gaps.len(), 3, "{gaps:?}");
    assert!(gaps[0] >= 24 * HOUR, "{gaps:?}");
    assert!(gaps[1] >= HOUR && gaps[1] < 3 * HOUR, "{gaps:?}");
    assert!(gaps[2] >= 3 * HOUR && gaps[2] < 7 * HOUR, "{gaps:?}");
    let reason = format!("{{topup}}:recheck-topup:meta:{id}");
    until("the dead letter has its reason", async || {
        let reason: Option<String> = bed.redis(&["HGET", &reason, "reason"]).await;
        (reason.as_deref() == Some("recheck-exhausted")).then_some(())
    })
    .await;
    bed.stored(&[id], OrderStatus::Scheduled).await;
}
