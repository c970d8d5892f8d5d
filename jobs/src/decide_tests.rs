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
    Observation::Answered(ProviderOrder { card, ..ProviderOrder::new(TopupStatus::from(status)) })
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
fn an_unknown_status_or_a_missing_card_is_treated_as_handling_with_a_warning() {
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
fn a_check_repeated_after_a_crash_keeps_the_scheduled_time() {
    let decision = poll(&scheduled(), &answer("QUEUED"), HOUR);
    assert_eq!((decision.next, decision.notify), (Next::Recheck(23 * HOUR), None));
}

#[test]
fn the_operator_is_notified_once_of_an_overdue_order_which_is_given_up_after_seven_days() {
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

fn known() -> Tracking {
    Tracking { last_checked_at: Some(start()), ..Tracking::new(start()) }
}

#[test]
fn an_order_that_was_never_known_is_given_up_after_more_than_ten_minutes_of_not_found() {
    let mut tracking = Tracking::new(start());
    let mut passed = Duration::ZERO;
    let mut waits = Vec::new();
    let end = loop {
        let decision = poll(&tracking, &Observation::NotFound, passed);
        let Next::Wait(wait) = decision.next else { break decision };
        assert_eq!(decision.notify, None);
        waits.push(wait.as_secs());
        passed += wait;
        tracking = decision.record;
    };
    assert_eq!(waits[..5], [12, 24, 48, 60, 60]);
    assert!((10 * MINUTE..11 * MINUTE).contains(&passed), "{passed:?}");
    assert_eq!(end.next, Next::DeadLetter(DeadLetterReason::NotFound));
    assert_eq!(end.notify, Some(Outcome::Unresolved));
}

#[test]
fn a_not_found_before_its_time_does_not_count() {
    let first = poll(&Tracking::new(start()), &Observation::NotFound, Duration::ZERO).record;
    let early = poll(&first, &Observation::NotFound, 2 * SECOND);
    assert_eq!((early.next, early.record.not_found), (Next::Wait(10 * SECOND), 1));
    assert_eq!(poll(&early.record, &Observation::NotFound, 12 * SECOND).record.not_found, 2);
}

#[test]
fn an_order_that_becomes_known_late_is_polled_for_five_minutes_from_then_on() {
    let tracking = Tracking { not_found: 7, ..Tracking::new(start()) };
    let decision = poll(&tracking, &answer("HANDLING"), 8 * MINUTE);
    assert_eq!((decision.next, decision.record.not_found), (Next::Poll(3 * SECOND), 0));
}

#[test]
fn a_404_of_a_known_order_counts_as_a_failure() {
    for after in [MINUTE, 10 * MINUTE, 2 * HOUR] {
        let not_found = poll(&known(), &Observation::NotFound, after);
        let failure = poll(&known(), &failed(), after);
        assert_eq!((not_found.next, not_found.notify), (failure.next, failure.notify));
        assert!(not_found.record.last_error.is_some());
    }
    assert_eq!(recheck(&known(), &Observation::NotFound, HOUR).next, Next::Retry(HOUR));
}

/// Tracks an order whose checks all give `observation`. Returns each outcome with its hour, and the last decision.
fn tracked_for_ever(observation: &Observation, mut tracking: Tracking) -> (Vec<(Outcome, u64)>, Decision) {
    let (mut job, mut passed, mut notified) = (JobName::PollTopup, Duration::ZERO, Vec::new());
    loop {
        let decision = decide(&at(job, &tracking), observation, start() + passed);
        notified.extend(decision.notify.map(|outcome| (outcome, passed.as_secs() / 3600)));
        let (next, wait) = match decision.next {
            Next::Poll(wait) => (JobName::PollTopup, wait),
            Next::Recheck(wait) => (JobName::RecheckTopup, wait),
            _ => return (notified, decision),
        };
        (job, passed, tracking) = (next, passed + wait, decision.record);
    }
}

#[test]
fn an_order_that_never_gets_final_is_overdue_after_a_day_and_given_up_after_seven() {
    for observation in [answer("HANDLING"), answer("UNKNOWN_ERROR"), without_card()] {
        let (notified, end) = tracked_for_ever(&observation, Tracking::new(start()));
        let overdue: Vec<u64> = notified
            .iter()
            .filter(|(outcome, _)| *outcome == Outcome::Overdue)
            .map(|(_, hours)| *hours)
            .collect();
        assert!(matches!(overdue[..], [24..=36]), "once, at the first check after a day: {overdue:?}");
        assert_eq!(notified.first().map(|(outcome, _)| *outcome), Some(Outcome::Delayed));
        assert!(matches!(notified.last(), Some((Outcome::Unresolved, 168..=180))), "{notified:?}");
        assert_eq!(end.next, Next::DeadLetter(DeadLetterReason::HandlingTooLong));
        assert_eq!(end.record.next_check_at, None);
        assert!(end.record.last_error.is_some());
    }
}

#[test]
fn a_handling_order_that_was_queued_before_has_the_limits_of_a_queued_one() {
    let handling = |passed| recheck(&scheduled(), &answer("HANDLING"), passed);
    assert_eq!(handling(71 * HOUR).notify, None);
    assert_eq!(handling(72 * HOUR).notify, Some(Outcome::Overdue));
    let end = handling(7 * 24 * HOUR);
    assert_eq!(end.next, Next::DeadLetter(DeadLetterReason::HandlingTooLong));
}

#[test]
fn a_failed_poll_backs_off_without_counting_as_a_poll_until_fast_polling_ends() {
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
fn a_delay_repeated_after_a_crash_keeps_the_time_of_the_recheck() {
    let delayed = poll(&Tracking::new(start()), &answer("HANDLING"), 295 * SECOND).record;
    let again = poll(&delayed, &answer("HANDLING"), 305 * SECOND);
    assert_eq!(again.record.delays, 1);
    assert_eq!(again.record.next_check_at, delayed.next_check_at);
    assert_eq!(again.notify, Some(Outcome::Delayed));
}

#[test]
fn an_answer_that_contradicts_a_final_status_is_notified_and_changes_nothing() {
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
    ]
}

proptest! {
    /// After any observations an order has ended, or its next check is due within bounds. A final order never changes.
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
            prop_assert!(ended || wait > Duration::ZERO);
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
