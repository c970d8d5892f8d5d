//! Scripts: what the provider answers about one order, and from when on.
//!
//! A script is a timeline over the order's age in domain time, so the same test reads the same at any time
//! scale. A test that must not depend on time at all puts its answers in front of the timeline with
//! [`Script::first`]. Scripts are data: they must not read a clock or draw a random number.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::fault::Fault;

/// What one check of an order is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `HANDLING`: being processed by the operator.
    Handling,
    /// `FULFILLED` with `card_code`, `num_trans` and `date_traitement`.
    Fulfilled,
    /// `FULFILLED`, but the three card fields are missing.
    FulfilledWithoutCard,
    /// `QUEUED`: scheduled for later.
    Queued,
    /// `REFUNDED`: cancelled and paid back.
    Refunded,
    /// Any other status word, such as `PENDING`.
    Status(String),
    /// Not an order at all.
    Fault(Fault),
}

impl Answer {
    /// The state this answer tells of; none for a fault, which tells nothing about the order.
    pub(super) fn status(&self) -> Option<SimStatus> {
        Some(match self {
            Self::Handling => SimStatus::Handling,
            Self::Fulfilled | Self::FulfilledWithoutCard => SimStatus::Fulfilled,
            Self::Queued => SimStatus::Queued,
            Self::Refunded => SimStatus::Refunded,
            Self::Status(word) => SimStatus::Other(word.clone()),
            Self::Fault(_) => return None,
        })
    }
}

/// The true state of a simulated order. `Display` gives the provider's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SimStatus {
    /// Being processed.
    Handling,
    /// The card is there.
    Fulfilled,
    /// Scheduled for later.
    Queued,
    /// Paid back.
    Refunded,
    /// A status that is not documented for internet top-ups.
    Other(String),
}

impl fmt::Display for SimStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handling => "HANDLING",
            Self::Fulfilled => "FULFILLED",
            Self::Queued => "QUEUED",
            Self::Refunded => "REFUNDED",
            Self::Other(word) => word,
        })
    }
}

/// A timeline: from each `Duration` (domain time since the order was created) on, the answer is so.
/// Before its first step the order is `HANDLING`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// Answers to the first calls, one each, whatever the time.
    first: VecDeque<Answer>,
    /// Sorted by time; of two steps at one time the later written counts.
    steps: Vec<(Duration, Answer)>,
}

impl Script {
    /// `HANDLING`, then `FULFILLED` once the order is `after` old.
    #[must_use]
    pub fn fulfilled_after(after: Duration) -> Self {
        Self::default().then(after, Answer::Fulfilled)
    }

    /// `HANDLING`, then `REFUNDED` once the order is `after` old.
    #[must_use]
    pub fn refunded_after(after: Duration) -> Self {
        Self::default().then(after, Answer::Refunded)
    }

    /// `HANDLING`, then `QUEUED`, then `FULFILLED`; both times count from the creation of the order.
    #[must_use]
    pub fn queued_after(queued: Duration, fulfilled: Duration) -> Self {
        Self::default().then(queued, Answer::Queued).then(fulfilled, Answer::Fulfilled)
    }

    /// `HANDLING`, and never anything else.
    #[must_use]
    pub fn handling_forever() -> Self {
        Self::default()
    }

    /// `QUEUED`, and never anything else.
    #[must_use]
    pub fn queued_forever() -> Self {
        Self::always(Answer::Queued)
    }

    /// The same answer from the first moment on.
    #[must_use]
    pub fn always(answer: Answer) -> Self {
        Self::default().then(Duration::ZERO, answer)
    }

    /// From the age `at` on, the answer is `answer`. Steps may be given in any order.
    #[must_use]
    pub fn then(mut self, at: Duration, answer: Answer) -> Self {
        let place = self.steps.partition_point(|(earlier, _)| *earlier <= at);
        self.steps.insert(place, (at, answer));
        self
    }

    /// Puts answers in front of the timeline: the first checks get one each, whatever the time, and only then
    /// does the timeline speak. They do not change the order's true state.
    #[must_use]
    pub fn first(mut self, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.first.extend(answers);
        self
    }

    /// The answer to a check made at this age. Takes one of the answers to the first calls while there are
    /// any.
    pub(super) fn next_answer(&mut self, age: Duration) -> Answer {
        let timeline =
            || self.steps.iter().rev().find(|(at, _)| *at <= age).map(|(_, answer)| answer.clone());
        match self.first.pop_front() {
            Some(answer) => answer,
            None => timeline().unwrap_or(Answer::Handling),
        }
    }

    /// The last step up to this age that says something about the order: faults hide the state, they do not
    /// change it.
    pub(super) fn truth(&self, age: Duration) -> Answer {
        self.steps
            .iter()
            .rev()
            .filter(|(at, _)| *at <= age)
            .find(|(_, answer)| !matches!(answer, Answer::Fault(_)))
            .map_or(Answer::Handling, |(_, answer)| answer.clone())
    }

    /// The age at which the order is `HANDLING` no longer, which is when a client that polls may stop; none if
    /// it is so for ever.
    pub(super) fn decided_at(&self) -> Option<Duration> {
        let decides = |answer: &Answer| {
            matches!(answer.status(), Some(SimStatus::Fulfilled | SimStatus::Queued | SimStatus::Refunded))
        };
        self.steps.iter().find(|(_, answer)| decides(answer)).map(|(at, _)| *at)
    }

    /// The age at which the order became `FULFILLED`, if it has by now.
    pub(super) fn fulfilled_at(&self, age: Duration) -> Option<Duration> {
        self.steps
            .iter()
            .take_while(|(at, _)| *at <= age)
            .find(|(_, answer)| answer.status() == Some(SimStatus::Fulfilled))
            .map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn steps_hold_from_their_time_on_whatever_order_they_were_written_in() {
        let mut script = Script::default()
            .then(secs(20), Answer::Refunded)
            .then(secs(5), Answer::Queued)
            .then(secs(10), Answer::Fault(Fault::InternalError500));
        assert_eq!(script.next_answer(secs(0)), Answer::Handling);
        assert_eq!(script.next_answer(secs(5)), Answer::Queued);
        assert_eq!(script.next_answer(secs(19)), Answer::Fault(Fault::InternalError500));
        assert_eq!(script.truth(secs(19)), Answer::Queued);
        assert_eq!(script.next_answer(secs(20)), Answer::Refunded);
    }

    #[test]
    fn of_two_steps_at_one_time_the_later_written_counts() {
        let mut script = Script::always(Answer::Queued).then(Duration::ZERO, Answer::Fulfilled);
        assert_eq!(script.next_answer(Duration::ZERO), Answer::Fulfilled);
    }

    #[test]
    fn first_answers_go_before_the_timeline_and_leave_the_truth_alone() {
        let mut script = Script::fulfilled_after(Duration::ZERO).first([Answer::Handling, Answer::Queued]);
        assert_eq!(script.next_answer(secs(9)), Answer::Handling);
        assert_eq!(script.truth(secs(9)), Answer::Fulfilled);
        assert_eq!(script.next_answer(secs(9)), Answer::Queued);
        assert_eq!(script.next_answer(secs(9)), Answer::Fulfilled);
    }

    #[test]
    fn the_time_of_fulfilment_is_the_first_one_and_only_once_reached() {
        let script = Script::queued_after(secs(5), secs(60)).then(secs(90), Answer::Fulfilled);
        assert_eq!(script.fulfilled_at(secs(59)), None);
        assert_eq!(script.fulfilled_at(secs(100)), Some(secs(60)));
    }

    #[test]
    fn an_order_is_decided_by_its_first_word_that_is_not_handling() {
        let down = Answer::Fault(Fault::InternalError500);
        let script = Script::queued_after(secs(20), secs(60)).then(secs(3), down);
        assert_eq!(script.decided_at(), Some(secs(20)));
        assert_eq!(Script::handling_forever().decided_at(), None);
    }

    #[test]
    fn statuses_are_the_providers_words() {
        let words: Vec<String> = [
            Answer::Handling,
            Answer::FulfilledWithoutCard,
            Answer::Queued,
            Answer::Refunded,
            Answer::Status("PENDING".to_owned()),
        ]
        .iter()
        .filter_map(|answer| answer.status().map(|status| status.to_string()))
        .collect();
        assert_eq!(words, ["HANDLING", "FULFILLED", "QUEUED", "REFUNDED", "PENDING"]);
        assert_eq!(Answer::Fault(Fault::Hang).status(), None);
    }
}
