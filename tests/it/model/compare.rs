//! Compares Redis with the model after a call.

use std::collections::BTreeSet;

use super::call::Call;
use super::queues::{Expected, Model};
use super::snapshot::{Answer, difference};
use super::system::Found;

/// Describes how Redis and the model differ.
pub(super) fn compare(call: &Call, model: &Model, expected: &Expected, found: &Found) -> Option<String> {
    let answers = [&expected.answer, &found.answer];
    if !same_answer(call, answers[0], answers[1]) {
        return Some(format!("answer\n  expected {:?}\n  found    {:?}", answers[0], answers[1]));
    }
    if let Some(difference) = difference(&model.snapshot(), &found.snapshot) {
        return Some(difference);
    }
    let woken: BTreeSet<&String> = found.wakes.keys().collect();
    let Expected { must_wake, may_wake, .. } = expected;
    let once = found.wakes.values().all(|times| *times == 1);
    if once
        && must_wake.iter().all(|wake| woken.contains(wake))
        && woken.iter().all(|wake| may_wake.contains(*wake))
    {
        return None;
    }
    let wakes = &found.wakes;
    Some(format!("wake-ups\n  expected {must_wake:?}, at most {may_wake:?}\n  found    {wakes:?}"))
}

/// Compares two answers. Redis formats a due time in its own way, so due times are compared as numbers.
fn same_answer(call: &Call, expected: &Answer, found: &Answer) -> bool {
    match (call, expected, found) {
        (Call::PutRight { .. }, Answer::List(expected), Answer::List(found)) => {
            let [Answer::Text(one), Answer::Text(other)] = [&expected[0], &found[0]] else { return false };
            let time = |text: &str| text.trim_start_matches('(').parse::<f64>().ok();
            let same_time = match (time(one), time(other)) {
                (Some(one), Some(other)) => (one - other).abs() < 0.000_01,
                (one, other) => one == other,
            };
            same_time && one.starts_with('(') == other.starts_with('(') && expected[1] == found[1]
        }
        _ => expected == found,
    }
}
