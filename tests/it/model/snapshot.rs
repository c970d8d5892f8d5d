//! The content of Redis as plain values, and the invariants that every sequence must keep.

use std::collections::{BTreeMap, BTreeSet};

use super::call::QUEUES;

/// Fields of a hash or of a message.
pub(super) type Fields = BTreeMap<String, String>;

/// The content of one key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Text(String),
    List(Vec<String>),
    Set(BTreeSet<String>),
    Scores(BTreeMap<String, f64>),
    Hash(Fields),
    Stream(Vec<(String, Fields)>),
}

/// All keys with their content.
pub(super) type Snapshot = BTreeMap<String, Content>;

/// The answer of a script.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answer {
    Nothing,
    Number(i64),
    Text(String),
    List(Vec<Answer>),
}

pub(super) fn text(text: &str) -> Answer {
    Answer::Text(text.to_owned())
}

pub(super) fn number(number: usize) -> Answer {
    Answer::Number(i64::try_from(number).unwrap())
}

/// Largest allowed difference of two times in seconds. It is small, as the model calculates like Lua.
const TOLERANCE: f64 = 0.000_01;

fn same_time(one: f64, other: f64) -> bool {
    (one - other).abs() <= TOLERANCE
}

fn same_content(key: &str, expected: &Content, found: &Content) -> bool {
    match (expected, found) {
        (Content::Scores(expected), Content::Scores(found)) => {
            expected.len() == found.len()
                && expected
                    .iter()
                    .zip(found)
                    .all(|(one, other)| one.0 == other.0 && same_time(*one.1, *other.1))
        }
        (Content::Hash(expected), Content::Hash(found)) => {
            let same = |((name, one), (other_name, other)): ((&String, &String), (&String, &String))| {
                let times = || Some((one.parse().ok()?, other.parse().ok()?));
                let same_value = one == other
                    || name == "dead_at" && times().is_some_and(|(one, other)| same_time(one, other));
                name == other_name && same_value
            };
            expected.len() == found.len() && expected.iter().zip(found).all(same)
        }
        // Redis chooses the ids of the rejected messages.
        (Content::Stream(expected), Content::Stream(found)) if key == super::call::REJECTED => {
            let fields = |stream: &[(String, Fields)]| -> Vec<Fields> {
                stream.iter().map(|(_, fields)| fields.clone()).collect()
            };
            fields(expected) == fields(found)
        }
        _ => expected == found,
    }
}

/// Describes the keys that differ.
pub(super) fn difference(expected: &Snapshot, found: &Snapshot) -> Option<String> {
    let keys: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let differing = keys.into_iter().filter_map(|key| match (expected.get(key), found.get(key)) {
        (Some(one), Some(other)) if same_content(key, one, other) => None,
        (one, other) => Some(format!("{key}\n  expected {one:?}\n  found    {other:?}")),
    });
    let differing: Vec<String> = differing.collect();
    (!differing.is_empty()).then(|| differing.join("\n"))
}

/// The ids in a list.
pub(super) fn list(snapshot: &Snapshot, key: &str) -> Vec<String> {
    match snapshot.get(key) {
        Some(Content::List(ids)) => ids.clone(),
        _ => Vec::new(),
    }
}

/// The members of a set or sorted set, or the names of a hash.
pub(super) fn members(snapshot: &Snapshot, key: &str) -> BTreeSet<String> {
    match snapshot.get(key) {
        Some(Content::Set(members)) => members.clone(),
        Some(Content::Scores(scores)) => scores.keys().cloned().collect(),
        Some(Content::Hash(fields)) => fields.keys().cloned().collect(),
        _ => BTreeSet::new(),
    }
}

/// Describes the first job that breaks an invariant: each job has a payload and is in exactly one key of its queue. It
/// does not use the model. Jobs in `corrupted`, which other programs have touched, are exempt.
pub(super) fn violation(snapshot: &Snapshot, corrupted: &BTreeSet<(&'static str, String)>) -> Option<String> {
    QUEUES.iter().find_map(|queue| {
        let key = |name: &str| format!("{queue}:{name}");
        let mut locations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut put = |id: String, location: &str| locations.entry(id).or_default().push(location.to_owned());
        for id in list(snapshot, &key("active")) {
            put(id, "active");
        }
        for location in ["scheduled", "dead"] {
            for id in members(snapshot, &key(location)) {
                put(id, location);
            }
        }
        let workers = members(snapshot, &key("workers"));
        for name in snapshot.keys() {
            let Some(worker) = name.strip_prefix(&key("inflight:")) else { continue };
            if !workers.contains(worker) {
                return Some(format!("{name}: its worker is not registered, so its jobs are never reaped"));
            }
            for id in members(snapshot, name) {
                put(id, name);
            }
        }
        let data = members(snapshot, &key("data"));
        let histories = snapshot.keys().filter_map(|name| name.strip_prefix(&key("meta:")));
        let ids: BTreeSet<String> = histories
            .map(ToOwned::to_owned)
            .chain(locations.keys().cloned())
            .chain(data.iter().cloned())
            .collect();
        ids.into_iter().filter(|id| !corrupted.contains(&(*queue, id.clone()))).find_map(|id| {
            let locations = locations.get(&id).map(Vec::as_slice).unwrap_or_default();
            (locations.len() != 1 || !data.contains(&id)).then(|| {
                let payload = if data.contains(&id) { "its" } else { "no" };
                format!("job {id} of {queue}, with {payload} payload, is in {locations:?}")
            })
        })
    })
}
