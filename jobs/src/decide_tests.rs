use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::schedule::{HOUR, MINUTE, SECOND};
use crate::{Card, Secret};

fn start() -> Timestamp {
    Timestamp::from_timestamp(1_761_998_400, 0).unwrap()
}

fn answer(status: &str) -> Observation {
    let card = (status == "FULFILLED").then(|| Card {
        card_code: Secret::new("123456789012"),
        num_trans: Some("AT-2025-12345".to_owned()),
        date_traitement: None,
    });
    Observation::Answered(ProviderOrder {
        status: TopupStatus::from(status),
        topup_ref: None,
        kind: None,
        number: None,
        topup_amount: None,
        card,
    })
}

fn without_card() -> Observation {
    let Observation::Answered(order) = answer("FULFILLED") else { unreachable!() };
    Observation::Answered(ProviderOrder { card: None, ..order })
}

fn failed() -> Observation {
    Observation::Failed("500".to_owned())
}

fn at(job: JobName, tracking: &Tracking) -> Situation<'_> {
    Situation {
        job,
        tracking,
        attempts_made: 0,
        strategy: PollStrategy::Adaptive,
        retry: RetryPolicy::default(),
        jitter: Jitter::NONE,
    }
}

fn poll(tracking: &Tracking, observation: &Observation, after: Duration) -> Decision {
    decide(&at(JobName::PollTopup, tracking), observation, start() + after)
}

fn recheck(tracking: &Tracking, observation: &Observation, after: Duration) -> Decision {
    decide(&at(JobName::RecheckTopup, tracking), observation, start() + after)
}

fn scheduled() -> Tracking {
    poll(&Tracking::new(start()), &answer("QUEUED"), Duration::ZERO).record
}

#[test]
fn poll_handling_keeps_the_adaptive_pace() {
    let tracking = Tracking::new(start());
    for (elapsed, wait) in [(0, 3), (30, 3), (31, 5), (60, 5), (61, 10), (290, 10)] {
        let decision = poll(&tracking, &answer("HANDLING"), elapsed * SECOND);
        assert_eq!(decision.next, Next::Poll(wait * SECOND), "{elapsed} s");
        assert_eq!(decision.record.next_check_at, Some(start() + (elapsed + wait) * SECOND));
    }
}

#[test]
fn poll_handling_at_the_limit_is_delayed() {
    let mut tracking = Tracking::new(start());
    let by_time = poll(&tracking, &answer("HANDLING"), 291 * SECOND);
    tracking.polls = 59;
    let by_count = poll(&tracking, &answer("HANDLING"), 100 * SECOND);
    for decision in [by_time, by_count] {
        assert_eq!(decision.record.status, OrderStatus::Delayed);
        assert_eq!(decision.next, Next::Recheck(15 * MINUTE));
        assert_eq!(decision.notify, Some(Outcome::Delayed));
    }
}

#[test]
fn an_order_delayed_again_waits_twice_as_long() {
    let mut tracking = Tracking::new(start());
    tracking.delays = 2;
    assert_eq!(poll(&tracking, &answer("HANDLING"), 300 * SECOND).next, Next::Recheck(HOUR));
}

#[test]
fn fulfilled_with_a_card_is_done_from_any_job() {
    for decide in [poll, recheck] {
        let decision = decide(&scheduled(), &answer("FULFILLED"), HOUR);
        assert_eq!(decision.record.status, OrderStatus::Fulfilled);
        assert_eq!(decision.record.fulfilled_at, Some(start() + HOUR));
        assert_eq!(decision.record.next_check_at, None);
        assert_eq!((decision.next, decision.notify), (Next::Done, Some(Outcome::Fulfilled)));
    }
}

#[test]
fn what_is_not_final_is_treated_as_handling_and_warned_of() {
    for observation in [without_card(), answer("UNKNOWN_ERROR"), answer("PENDING")] {
        let decision = poll(&Tracking::new(start()), &observation, SECOND);
        assert_eq!((decision.next, decision.notify), (Next::Poll(3 * SECOND), None));
        assert!(decision.warning.is_some());
        assert_eq!(decision.record.last_error, decision.warning);
    }
}

#[test]
fn queued_is_rechecked_after_24_hours_then_every_12() {
    let first = poll(&Tracking::new(start()), &answer("QUEUED"), Duration::ZERO);
    assert_eq!(first.record.status, OrderStatus::Scheduled);
    assert_eq!((first.next, first.notify), (Next::Recheck(24 * HOUR), Some(Outcome::Scheduled)));
    let again = recheck(&first.record, &answer("QUEUED"), 24 * HOUR);
    assert_eq!((again.next, again.notify), (Next::Recheck(12 * HOUR), None));
    assert_eq!(again.record.next_check_at, Some(start() + 36 * HOUR));
}

#[test]
fn a_look_repeated_after_a_crash_keeps_the_scheduled_time() {
    let decision = poll(&scheduled(), &answer("QUEUED"), HOUR);
    assert_eq!((decision.next, decision.notify), (Next::Recheck(23 * HOUR), None));
}

#[test]
fn an_overdue_order_is_told_once_and_given_up_after_seven_days() {
    let overdue = recheck(&scheduled(), &answer("QUEUED"), 72 * HOUR);
    assert_eq!((overdue.next, overdue.notify), (Next::Recheck(12 * HOUR), Some(Outcome::Overdue)));
    let later = recheck(&overdue.record, &answer("QUEUED"), 84 * HOUR);
    assert_eq!(later.notify, None);
    let end = recheck(&later.record, &answer("QUEUED"), 7 * 24 * HOUR);
    assert_eq!(end.next, Next::DeadLetter(DeadLetterReason::QueuedTooLong));
    assert_eq!(end.notify, Some(Outcome::Unresolved));
}

#[test]
fn recheck_handling_polls_with_a_fresh_limit() {
    let decision = recheck(&scheduled(), &answer("HANDLING"), 24 * HOUR);
    assert_eq!(decision.record.status, OrderStatus::Handling);
    assert_eq!(decision.record.polling_since, start() + 24 * HOUR);
    assert_eq!((decision.next, decision.notify), (Next::Poll(3 * SECOND), None));
}

#[test]
fn refunded_is_done() {
    let decision = recheck(&scheduled(), &answer("REFUNDED"), HOUR);
    assert_eq!(decision.record.refunded_at, Some(start() + HOUR));
    assert_eq!((decision.next, decision.notify), (Next::Done, Some(Outcome::Refunded)));
}

#[test]
fn not_found_is_asked_again_five_times_over_a_minute() {
    let mut tracking = Tracking::new(start());
    for again in 0..5 {
        let decision = poll(&tracking, &Observation::NotFound, again * 12 * SECOND);
        assert_eq!((&decision.next, decision.notify), (&Next::Wait(12 * SECOND), None));
        tracking = decision.record;
    }
    let end = poll(&tracking, &Observation::NotFound, MINUTE);
    assert_eq!(end.next, Next::DeadLetter(DeadLetterReason::NotFound));
    assert_eq!(end.notify, Some(Outcome::Unresolved));
}

#[test]
fn an_answer_between_two_not_found_starts_the_count_again() {
    let tracking = Tracking { not_found: 5, ..Tracking::new(start()) };
    assert_eq!(poll(&tracking, &answer("HANDLING"), SECOND).record.not_found, 0);
}

#[test]
fn a_failed_poll_backs_off_and_counts_neither_as_poll_nor_for_ever() {
    let tracking = Tracking::new(start());
    for (attempts_made, wait) in [(0, 5), (1, 10), (2, 20), (3, 40), (4, 60), (9, 60)] {
        let situation = Situation { attempts_made, ..at(JobName::PollTopup, &tracking) };
        let decision = decide(&situation, &failed(), start());
        assert_eq!(decision.next, Next::Retry(wait * SECOND));
        assert_eq!(decision.record.polls, 0);
        assert_eq!(decision.record.last_error.as_deref(), Some("500"));
    }
    let end = poll(&tracking, &failed(), 299 * SECOND);
    assert_eq!((end.next, end.notify), (Next::Recheck(15 * MINUTE), Some(Outcome::Delayed)));
}

#[test]
fn a_failed_recheck_waits_1_h_then_3_h_then_is_a_dead_letter() {
    let tracking = scheduled();
    let after = |attempts_made| {
        let situation = Situation { attempts_made, ..at(JobName::RecheckTopup, &tracking) };
        decide(&situation, &failed(), start() + 24 * HOUR)
    };
    assert_eq!(after(0).next, Next::Retry(HOUR));
    assert_eq!(after(1).next, Next::Retry(3 * HOUR));
    assert_eq!(after(2).next, Next::DeadLetter(DeadLetterReason::RecheckExhausted));
    assert_eq!(after(2).notify, Some(Outcome::Unresolved));
}

#[test]
fn a_closed_gate_costs_neither_an_attempt_nor_time_of_polling() {
    let tracking = Tracking { polls: 7, not_found: 2, ..Tracking::new(start()) };
    let closed = Observation::GateClosed(15 * MINUTE);
    let decision = poll(&tracking, &closed, MINUTE);
    assert_eq!((decision.next, decision.notify), (Next::Wait(15 * MINUTE), None));
    assert_eq!((decision.record.polls, decision.record.not_found), (7, 2));
    assert_eq!(decision.record.next_check_at, Some(start() + 16 * MINUTE));
    let after = poll(&decision.record, &answer("HANDLING"), 16 * MINUTE);
    assert_eq!(after.next, Next::Poll(5 * SECOND), "a minute of polling has passed, not sixteen");
    let decision = recheck(&scheduled(), &closed, 24 * HOUR);
    assert_eq!(decision.next, Next::Wait(15 * MINUTE));
    assert_eq!(decision.record.scheduled_at, Some(start()));
}

#[test]
fn a_delay_repeated_after_a_crash_keeps_its_time() {
    let delayed = poll(&Tracking::new(start()), &answer("HANDLING"), 295 * SECOND).record;
    let again = poll(&delayed, &answer("HANDLING"), 305 * SECOND);
    assert_eq!(again.record.delays, 1);
    assert_eq!(again.record.next_check_at, delayed.next_check_at);
    assert_eq!(again.notify, Some(Outcome::Delayed));
}

#[test]
fn a_contradiction_of_a_final_state_is_told_and_changes_nothing() {
    let done = poll(&Tracking::new(start()), &answer("FULFILLED"), Duration::ZERO).record;
    let decision = poll(&done, &answer("REFUNDED"), HOUR);
    assert_eq!((decision.next, decision.notify), (Next::Done, Some(Outcome::Unresolved)));
    assert_eq!(decision.record, done);
    assert!(decision.warning.is_some());
    assert_eq!(poll(&done, &answer("FULFILLED"), HOUR).notify, None);
}

fn observations() -> impl Strategy<Value = Observation> {
    prop_oneof![
        prop_oneof!["HANDLING", "QUEUED", "FULFILLED", "REFUNDED", "[A-Z_]{0,60}"].prop_map(|s| answer(&s)),
        Just(without_card()),
        Just(Observation::NotFound),
        Just(failed()),
        (0_u64..900).prop_map(|s| Observation::GateClosed(Duration::from_secs(s))),
    ]
}

proptest! {
    /// An order followed through any sequence of observations ends or is scheduled again, within
    /// bounds, and nothing changes it once it is final.
    #[test]
    fn every_order_ends_or_is_scheduled_again(
        looks in proptest::collection::vec((observations(), 0_u64..100_000, -1.0..1.0), 1..120),
        strategy in prop_oneof![Just(PollStrategy::Adaptive), Just(PollStrategy::Fixed)],
        recheck_first: bool,
    ) {
        let mut tracking = Tracking::new(start());
        let mut job = if recheck_first { JobName::RecheckTopup } else { JobName::PollTopup };
        let (mut now, mut attempts_made) = (start(), 0);
        for (observation, late, jitter) in looks {
            let situation = Situation {
                attempts_made, strategy, jitter: Jitter::new(jitter), ..at(job, &tracking)
            };
            let decision = decide(&situation, &observation, now);
            if tracking.status.is_final() {
                prop_assert_eq!(&decision.record, &tracking);
            }
            let ended = decision.record.status.is_final() || matches!(decision.next, Next::DeadLetter(_));
            let wait = match decision.next {
                Next::Poll(wait) => { job = JobName::PollTopup; attempts_made = 0; wait }
                Next::Recheck(wait) => { job = JobName::RecheckTopup; attempts_made = 0; wait }
                Next::Retry(wait) => { attempts_made += 1; wait }
                Next::Wait(wait) => wait,
                Next::Done => { prop_assert!(decision.record.status.is_final()); Duration::ZERO }
                Next::DeadLetter(_) => break,
            };
            prop_assert!(wait <= 24 * HOUR, "{:?}", wait);
            prop_assert!(ended || wait > Duration::ZERO || matches!(observation, Observation::GateClosed(_)));
            if !ended {
                prop_assert_eq!(decision.record.next_check_at, Some(now + wait));
            }
            prop_assert!(decision.record.polls <= 60);
            if let Next::Poll(wait) = decision.next {
                let since = (now + wait - decision.record.polling_since).to_std().unwrap();
                prop_assert!(since <= 5 * MINUTE, "a poll {:?} into polling", since);
            }
            now += wait + Duration::from_millis(late);
            tracking = decision.record;
        }
    }
}
