//! The provider is asked at the documented pace: never faster, never after the limit.
//!
//! Gaps are measured by the simulator in domain time. Too early is a failure without any slack; too late is
//! allowed for, since the machine may be busy.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Answer, Call, Fault, Script};

use crate::support::{Bed, until};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

fn since(earlier: &Call, later: &Call) -> Duration {
    later.at.saturating_sub(earlier.at)
}

/// For each call but the last: how long after the first it came, and how long before the next.
fn gaps(calls: &[Call]) -> impl Iterator<Item = (Duration, Duration)> {
    calls.windows(2).map(|pair| (since(&calls[0], &pair[0]), since(&pair[0], &pair[1])))
}

#[tokio::test]
async fn fast_polling_slows_down_and_ends_at_the_limit() {
    let bed = Bed::new(10.0).await;
    let id = bed.order(Script::handling_forever());
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let received = bed.told(&id, "delayed").await;
    assert_eq!(received.json()["data"]["status"], "DELAYED");
    let calls: Vec<Call> = bed.simulator.calls(&id);
    let (polling, later): (Vec<Call>, Vec<Call>) =
        calls.into_iter().partition(|call| call.at < Duration::from_mins(10));
    assert!(later.is_empty(), "the recheck comes after a quarter of an hour");
    assert!(polling.len() <= 60, "{} polls", polling.len());
    assert!(polling.len() > 25, "{} polls", polling.len());
    let mut prompt = 0;
    for (at, gap) in gaps(&polling) {
        // The worker's count starts with the order's arrival, a little before the first call.
        let least = if at > 61 * SECOND {
            10
        } else if at > 31 * SECOND {
            5
        } else {
            3
        };
        assert!(gap >= least * SECOND * 9 / 10, "{gap:?} at {at:?}: too fast");
        assert!(at + least * SECOND * 9 / 10 <= 300 * SECOND, "planned at {at:?}: for later than the limit");
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
    bed.told(&id, "delayed").await;
    let calls = bed.simulator.calls(&id);
    assert!(calls.len() <= 60, "{} polls", calls.len());
    assert!(gaps(&calls).all(|(_, gap)| gap >= SECOND * 45 / 10), "{calls:?}");
}

#[tokio::test]
async fn a_queued_order_is_rechecked_after_24_hours_and_then_every_12() {
    // Twelve hours are more than seven seconds: no recheck comes later than that, however busy the machine.
    let bed = Bed::new(6_000.0).await;
    let id = bed.order(Script::queued_forever());
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.told(&id, "overdue").await;
    bed.simulator.set_script(&id, Script::always(Answer::Fulfilled));
    bed.told(&id, "fulfilled").await;
    let gaps: Vec<Duration> = gaps(&bed.simulator.calls(&id)).map(|(_, gap)| gap).collect();
    assert!(gaps.len() >= 5, "{gaps:?}");
    assert!(gaps[0] >= 24 * HOUR && gaps[0] < 36 * HOUR, "{gaps:?}");
    assert!(gaps[1..].iter().all(|gap| *gap >= 12 * HOUR && *gap < 24 * HOUR), "{gaps:?}");
}

#[tokio::test]
async fn a_failing_recheck_is_tried_after_1_hour_then_3_then_given_up() {
    // Two hours are more than three seconds, which no attempt is late by.
    let bed = Bed::new(2_250.0).await;
    let id = bed.order(Script::queued_forever());
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.told(&id, "scheduled").await;
    bed.simulator.set_script(&id, Script::always(Answer::Fault(Fault::InternalError500)));
    let received = bed.told(&id, "unresolved").await;
    assert_eq!(received.json()["data"]["status"], "SCHEDULED");
    let gaps: Vec<Duration> = gaps(&bed.simulator.calls(&id)).map(|(_, gap)| gap).collect();
    assert_eq!(gaps.len(), 3, "{gaps:?}");
    assert!(gaps[0] >= 24 * HOUR, "{gaps:?}");
    assert!(gaps[1] >= HOUR && gaps[1] < 3 * HOUR, "{gaps:?}");
    assert!(gaps[2] >= 3 * HOUR && gaps[2] < 7 * HOUR, "{gaps:?}");
    let reason = format!("{{topup}}:recheck-topup:meta:{id}");
    until("the dead letter says why", async || {
        let reason: Option<String> = bed.redis(&["HGET", &reason, "reason"]).await;
        (reason.as_deref() == Some("recheck-exhausted")).then_some(())
    })
    .await;
    bed.stored(&[id], OrderStatus::Scheduled).await;
}
