//! Ids of events. An event keeps its id on every channel, at every attempt and in every repeat after a crash.

use std::fmt;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Outcome, TopupId};

/// Number of an occurrence of an outcome, from 1. An order that is given up twice has two incidents of `unresolved`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Incident(NonZeroU32);

impl Incident {
    /// The first incident, and the only one of an outcome that does not [recur](Outcome::recurs).
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The incident with this number; `None` for 0, since numbers begin at 1.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number of this incident, from 1 up.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }

    /// The next incident.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Whether this is the first incident.
    #[must_use]
    pub fn is_first(&self) -> bool {
        *self == Self::FIRST
    }
}

impl Default for Incident {
    fn default() -> Self {
        Self::FIRST
    }
}

/// The suffix of an outcome in an id: empty for the first incident, `_2` for the second.
impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_first() { Ok(()) } else { write!(f, "_{}", self.0) }
    }
}

/// Id of an event: `evt_<topupId>_<outcome>`, with `_2` appended for the second incident, and so on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventId(String);

impl EventId {
    /// The id of the event for this incident.
    #[must_use]
    pub fn new(topup_id: &TopupId, outcome: Outcome, incident: Incident) -> Self {
        Self(format!("evt_{topup_id}_{outcome}{incident}"))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_holds_the_number_of_its_incident_from_the_second_on() {
        let order: TopupId = "6901616fe9e88196b4eb64b2".parse().unwrap();
        let id = |incident| EventId::new(&order, Outcome::Unresolved, incident).to_string();
        assert_eq!(id(Incident::FIRST), "evt_6901616fe9e88196b4eb64b2_unresolved");
        assert_eq!(id(Incident::FIRST.next()), "evt_6901616fe9e88196b4eb64b2_unresolved_2");
        assert_eq!(Incident::new(0), None);
        assert_eq!(Incident::new(2), Some(Incident::FIRST.next()));
    }
}
