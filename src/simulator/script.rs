//! Scripts: the provider's answers about one order, by its age.
//!
//! A script is a timeline over the order's age in domain time, so a test is the same at any time scale. A test that
//! must not depend on time puts its answers before the timeline with [`Script::first`]. Scripts are data: they must not
//! read a clock or draw a random number.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::fault::Fault;

/// The answer to one check of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `HANDLING`: being processed by the carrier.
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
    /// An error or another abnormal answer.
    Fault(Fault),
}

impl Answer {
    /// The order's state in this answer; `None` for a fault, which contains no state.
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
    /// Completed, with a card.
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

/// A timeline of answers. Each step applies from its age on, in domain time since the order's creation. Before the
/// first step the order is `HANDLING`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// Answers to the first checks, one each, at any age.
    first: VecDeque<Answer>,
    /// Sorted by age. Of two steps with the same age, the one that was added last applies.
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

    /// `HANDLING` for ever.
    #[must_use]
    pub fn handling_forever() -> Self {
        Self::default()
    }

    /// `QUEUED` for ever.
    #[must_use]
    pub fn queued_forever() -> Self {
        Self::always(Answer::Queued)
    }

    /// The script that always gives this answer.
    #[must_use]
    pub fn always(answer: Answer) -> Self {
        Self::default().then(Duration::ZERO, answer)
    }

    /// Adds a step: from age `at` on the answer is `answer`. Steps may be added in any order.
    #[must_use]
    pub fn then(mut self, at: Duration, answer: Answer) -> Self {
        let place = self.steps.partition_point(|(earlier, _)| *earlier <= at);
        self.steps.insert(place, (at, answer));
        self
    }

    /// Puts answers before the timeline: the first checks get one each, at any age. They do not change the true state.
    #[must_use]
    pub fn first(mut self, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.first.extend(answers);
        self
    }

    /// The answer to a check at this age. The answers of [`Script::first`] are used up before the timeline applies.
    pub(super) fn next_answer(&mut self, age: Duration) -> Answer {
        let timeline =
            || self.steps.iter().rev().find(|(at, _)| *at <= age).map(|(_, answer)| answer.clone());
        match self.first.pop_front() {
            Some(answer) => answer,
            None => timeline().unwrap_or(Answer::Handling),
        }
    }

    /// The order's true answer at this age: the last step that is not a fault, because a fault only hides the state.
    pub(super) fn truth(&self, age: Duration) -> Answer {
        self.steps
            .iter()
            .rev()
            .filter(|(at, _)| *at <= age)
            .find(|(_, answer)| !matches!(answer, Answer::Fault(_)))
            .map_or(Answer::Handling, |(_, answer)| answer.clone())
    }

    /// The age at which the order leaves `HANDLING` and polling may stop; `None` if it never does.
    pub(super) fn decided_at(&self) -> Option<Duration> {
        let decides = |answer: &Answer| {
            matches!(answer.status(), Some(SimStatus::Fulfilled | SimStatus::Queued | SimStatus::Refunded))
        };
        self.steps.iter().find(|(_, answer)| decides(answer)).map(|(at, _)| *at)
    }

    /// The age at which the order became `FULFILLED`; `None` if it has not yet.
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
    fn steps_hold_from_their_age_on_and_may_be_added_in_any_order() {
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
    fn the_step_added_later_wins_at_the_same_age() {
        let mut script = Script::always(Answer::Queued).then(Duration::ZERO, Answer::Fulfilled);
        assert_eq!(script.next_answer(Duration::ZERO), Answer::Fulfilled);
    }

    #[test]
    fn first_answers_precede_the_timeline_without_changing_the_true_state() {
        let mut script = Script::fulfilled_after(Duration::ZERO).first([Answer::Handling, Answer::Queued]);
        assert_eq!(script.next_answer(secs(9)), Answer::Handling);
        assert_eq!(script.truth(secs(9)), Answer::Fulfilled);
        assert_eq!(script.next_answer(secs(9)), Answer::Queued);
        assert_eq!(script.next_answer(secs(9)), Answer::Fulfilled);
    }

    #[test]
    fn fulfilled_at_is_the_first_fulfilment_that_was_reached() {
        let script = Script::queued_after(secs(5), secs(60)).then(secs(90), Answer::Fulfilled);
        assert_eq!(script.fulfilled_at(secs(59)), None);
        assert_eq!(script.fulfilled_at(secs(100)), Some(secs(60)));
    }

    #[test]
    fn an_order_is_decided_by_its_first_status_other_than_handling() {
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
