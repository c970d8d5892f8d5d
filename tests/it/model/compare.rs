//! Redis and the model side by side.

use std::collections::BTreeSet;

use super::call::Call;
use super::ground::Found;
use super::queues::{Expected, Model};
use super::snapshot::{Answer, difference};

/// How Redis and the model differ, if they do.
pub(super) fn compare(call: &Call, model: &Model, expected: &Expected, found: &Found) -> Option<String> {
    let answers = [&expected.answer, &found.answer].map(|answer| match (call, answer) {
        // The order in which Redis takes the jobs of a dead worker is its own.
        (Call::Reap { .. }, Answer::List(values)) => {
            Answer::List(values.iter().cloned().map(sorted).collect())
        }
        (_, answer) => answer.clone(),
    });
    if answers[0] != answers[1] {
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
    Some(format!("word sent\n  expected {must_wake:?}, at most {may_wake:?}\n  found    {wakes:?}"))
}

fn sorted(answer: Answer) -> Answer {
    match answer {
        Answer::List(mut values) => {
            values.sort();
            Answer::List(values)
        }
        other => other,
    }
}
