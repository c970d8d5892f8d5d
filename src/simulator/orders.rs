//! The orders that the simulator holds, and their answers by age.
//!
//! Everything random about an order derives from the seed and the order's sequence number, so that requests for
//! other orders do not change its answers or card. Ids are built like the provider's (seconds, five constant bytes, a
//! counter), so a restarted simulator does not repeat them. A type that holds a phone number or a card must not
//! implement `Debug`.

use std::collections::HashMap;
use std::time::Duration;

use chrono::Datelike;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::clock::SimClock;
use super::kind::Kind;
use super::mix::{Mix, script_for};
use super::script::{Answer, Script, SimStatus};

/// One check of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Age of the order at the check, in domain time.
    pub at: Duration,
    /// The answered status, fault or refusal, such as `HANDLING` or `503 SERVICE_UNAVAILABLE`.
    pub answer: String,
}

pub(super) enum Plan {
    Script(Script),
    /// The script named by a hint in the reference, such as `sim-queued`; without a hint, drawn from this mix.
    Drawn(Mix),
}

/// A new order, before it has an id.
pub(super) struct Draft {
    pub(super) kind: Kind,
    pub(super) number: String,
    pub(super) topup_amount: u64,
    pub(super) reference: Option<String>,
    pub(super) plan: Plan,
}

/// An order as the API shows it, with the fields in the documented order.
#[derive(Serialize)]
pub(super) struct OrderView {
    #[serde(rename = "_id")]
    pub(super) id: String,
    #[serde(rename = "ref")]
    pub(super) reference: String,
    status: String,
    r#type: Kind,
    number: String,
    topup_amount: u64,
    #[serde(flatten)]
    card: Option<CardView>,
    created_at: String,
}

#[derive(Serialize)]
struct CardView {
    card_code: String,
    num_trans: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    date_traitement: Option<String>,
}

impl OrderView {
    /// Removes `date_traitement`, the date at which the carrier processed the order.
    pub(super) fn without_date(self) -> Self {
        let card = self.card.map(|card| CardView { date_traitement: None, ..card });
        Self { card, ..self }
    }

    pub(super) fn without_card(self) -> Self {
        Self { card: None, ..self }
    }
}

pub(super) struct Order {
    pub(super) id: String,
    pub(super) reference: String,
    pub(super) created: Duration,
    pub(super) script: Script,
    pub(super) calls: Vec<Call>,
    pub(super) card_code: String,
    num_trans: String,
    kind: Kind,
    number: String,
    topup_amount: u64,
}

impl Order {
    pub(super) fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.created)
    }

    pub(super) fn truth(&self, age: Duration) -> SimStatus {
        self.script.truth(age).status().unwrap_or(SimStatus::Handling)
    }

    /// The order as `answer` shows it; only [`Answer::Fulfilled`] includes the card fields.
    pub(super) fn view(&self, answer: &Answer, age: Duration, clock: &SimClock) -> OrderView {
        let processed = self.created.saturating_add(self.script.fulfilled_at(age).unwrap_or(age));
        let card = (*answer == Answer::Fulfilled).then(|| CardView {
            card_code: self.card_code.clone(),
            num_trans: self.num_trans.clone(),
            date_traitement: Some(clock.timestamp(processed)),
        });
        OrderView {
            id: self.id.clone(),
            reference: self.reference.clone(),
            status: answer.status().unwrap_or(SimStatus::Handling).to_string(),
            r#type: self.kind,
            number: self.number.clone(),
            topup_amount: self.topup_amount,
            card,
            created_at: clock.timestamp(self.created),
        }
    }
}

/// All orders, oldest first.
pub(super) struct Orders {
    seed: u64,
    all: Vec<Order>,
    by_id: HashMap<String, usize>,
    /// The newest order of each reference. The documentation does not say whether a repeated reference is refused.
    by_ref: HashMap<String, usize>,
}

impl Orders {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, all: Vec::new(), by_id: HashMap::new(), by_ref: HashMap::new() }
    }

    /// Creates an order and returns its id and reference.
    pub(super) fn create(&mut self, draft: Draft, clock: &SimClock) -> (String, String) {
        let (place, created) = (self.all.len(), clock.elapsed());
        let sequence = u64::try_from(place).unwrap_or(u64::MAX);
        let mut rng =
            StdRng::seed_from_u64(self.seed.wrapping_add(sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let date = clock.date(created);
        let id = object_id(self.seed, sequence, date.timestamp());
        let card_code = format!("{:012}", rng.random_range(0..1_000_000_000_000_u64));
        let num_trans = format!("AT-{}-{:05}", date.year(), rng.random_range(0..100_000_u32));
        let reference = draft.reference.unwrap_or_else(|| format!("topup-{id}"));
        let script = match draft.plan {
            Plan::Script(script) => script,
            Plan::Drawn(mix) => script_for(mix, &reference, &mut rng),
        };
        self.by_id.insert(id.clone(), place);
        self.by_ref.insert(reference.clone(), place);
        self.all.push(Order {
            id: id.clone(),
            reference: reference.clone(),
            created,
            script,
            calls: Vec::new(),
            card_code,
            num_trans,
            kind: draft.kind,
            number: draft.number,
            topup_amount: draft.topup_amount,
        });
        (id, reference)
    }

    pub(super) fn by_id(&self, id: &str) -> Option<&Order> {
        self.all.get(*self.by_id.get(id)?)
    }

    pub(super) fn by_id_mut(&mut self, id: &str) -> Option<&mut Order> {
        self.all.get_mut(*self.by_id.get(id)?)
    }

    pub(super) fn by_ref_mut(&mut self, reference: &str) -> Option<&mut Order> {
        self.all.get_mut(*self.by_ref.get(reference)?)
    }

    pub(super) fn newest_first(&self) -> impl Iterator<Item = &Order> {
        self.all.iter().rev()
    }
}

/// An id of 24 hex digits: seconds, five bytes derived from the seed, and a counter.
fn object_id(seed: u64, sequence: u64, seconds: i64) -> String {
    let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
    let machine = StdRng::seed_from_u64(!seed).random_range(0..1_u64 << 40);
    format!("{seconds:08x}{machine:010x}{:06x}", sequence & 0x00FF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(reference: Option<&str>) -> Draft {
        Draft {
            kind: Kind::Adsl,
            number: "036362608".to_owned(),
            topup_amount: 1000,
            reference: reference.map(str::to_owned),
            plan: Plan::Drawn(Mix::default()),
        }
    }

    fn lives(seed: u64) -> Vec<(String, Script)> {
        let (mut orders, clock) = (Orders::new(seed), SimClock::start(1.0));
        for _ in 0..50 {
            orders.create(draft(None), &clock);
        }
        orders.all.into_iter().map(|order| (order.card_code, order.script)).collect()
    }

    #[test]
    fn the_seed_decides_lives_and_cards() {
        assert_eq!(lives(1), lives(1));
        assert_ne!(lives(1), lives(2));
    }

    #[test]
    fn ids_are_24_hex_digits_and_differ() {
        let (mut orders, clock) = (Orders::new(1), SimClock::start(1.0));
        let (first, _) = orders.create(draft(None), &clock);
        let (second, reference) = orders.create(draft(None), &clock);
        assert_ne!(first, second);
        assert_eq!(reference, format!("topup-{second}"));
        assert!(first.len() == 24 && first.bytes().all(|byte| byte.is_ascii_hexdigit()), "{first}");
    }

    #[test]
    fn a_repeated_reference_finds_the_newer_order() {
        let (mut orders, clock) = (Orders::new(1), SimClock::start(1.0));
        orders.create(draft(Some("a")), &clock);
        let (second, _) = orders.create(draft(Some("a")), &clock);
        assert_eq!(orders.by_ref_mut("a").map(|order| order.id.clone()), Some(second));
    }
}
