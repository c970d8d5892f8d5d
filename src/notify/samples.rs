//! Sample orders of all kinds, with invented values. Rendering them at start finds errors in a merchant's templates.

use topup_jobs::{
    Customer, Event, EventData, EventId, Incident, Locale, OrderStatus, Outcome, Secret, TopupId, TopupType,
    Undelivered,
};

use super::{Delivery, message};
use crate::orders::Order;

const LINK: &str = "https://shop.example/card/sample-token";

/// The owned values that a sample [`Delivery`] borrows.
pub(super) struct Sample {
    id: EventId,
    pub(super) order: Order,
    pub(super) outcome: Outcome,
    pub(super) event: Event,
    link: Option<&'static str>,
}

impl Sample {
    pub(super) fn delivery(&self) -> Delivery<'_> {
        Delivery {
            event_id: &self.id,
            outcome: self.outcome,
            event: &self.event,
            order: &self.order,
            reveal_link: self.link,
        }
    }
}

/// What a sample contains of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// The card code; with `proof` also the transaction number and time.
    Code {
        proof: bool,
    },
    /// The link to the card page.
    Link,
    Nothing,
}

/// Samples for every outcome, kind of top-up and (if fulfilled) form of the card, with and without optional values.
pub(super) fn all() -> Vec<Sample> {
    let kinds =
        [Some(TopupType::Adsl), Some(TopupType::FourG), Some(TopupType::Other("FTTH".to_owned())), None];
    let mut samples = Vec::new();
    for outcome in Outcome::ALL {
        for kind in &kinds {
            let forms: &[Shown] = match outcome {
                Outcome::Fulfilled => {
                    &[Shown::Code { proof: true }, Shown::Code { proof: false }, Shown::Link, Shown::Nothing]
                }
                _ => &[Shown::Nothing],
            };
            for &shown in forms {
                samples.push(full(outcome, kind.clone(), shown));
                samples.push(bare(outcome, kind.clone(), shown));
            }
        }
    }
    samples
}

/// An order with all optional values.
pub(super) fn full(outcome: Outcome, kind: Option<TopupType>, shown: Shown) -> Sample {
    let mut sample = bare(outcome, kind, shown);
    let data = &mut sample.event.data;
    data.topup_ref = Some("order-123456".to_owned());
    data.number =
        Some(Secret::new(if data.kind == Some(TopupType::FourG) { "213472731602" } else { "036362608" }));
    data.topup_amount = Some(1000);
    data.customer = Some(Customer { name: Some(Secret::new("Amina Haddad")), ..Customer::default() });
    data.metadata = Some(serde_json::Map::from_iter([("cart".to_owned(), 42.into())]));
    let rechecked = matches!(outcome, Outcome::Scheduled | Outcome::Delayed | Outcome::Overdue);
    data.next_check_at = rechecked.then(|| sample.event.timestamp + chrono::TimeDelta::days(1));
    sample
}

/// An order without optional values.
fn bare(outcome: Outcome, kind: Option<TopupType>, shown: Shown) -> Sample {
    // Invariant: 24 hexadecimal digits are a valid id.
    let topup_id: TopupId = "6901616fe9e88196b4eb64b2".parse().expect("an id");
    let (code, proof) = match shown {
        Shown::Code { proof } => (Some(Secret::new("123456789012")), proof),
        Shown::Link | Shown::Nothing => (None, false),
    };
    let event = Event {
        kind: outcome.event_type(),
        timestamp: chrono::DateTime::from_timestamp_nanos(1_762_002_046_000_000_000),
        data: EventData {
            kind,
            card_code: code,
            num_trans: proof.then(|| "AT-2025-12345".to_owned()),
            date_traitement: proof.then(|| "2025-11-01T12:00:45.000Z".to_owned()),
            undelivered: (outcome == Outcome::Undelivered).then(|| undelivered(&topup_id)),
            ..EventData::new(
                topup_id.clone(),
                status(outcome),
                message(outcome, Locale::default()).to_owned(),
            )
        },
    };
    let link = (shown == Shown::Link).then_some(LINK);
    let (id, order) =
        (EventId::new(&topup_id, outcome, Incident::FIRST), Order::new(topup_id, event.timestamp));
    Sample { id, order, outcome, event, link }
}

fn undelivered(topup_id: &TopupId) -> Undelivered {
    Undelivered {
        event_id: EventId::new(topup_id, Outcome::Fulfilled, Incident::FIRST).to_string(),
        kind: Outcome::Fulfilled.event_type(),
        channel: "email".to_owned(),
        reason: "refused: SMTP 550 to the recipient".to_owned(),
    }
}

const fn status(outcome: Outcome) -> OrderStatus {
    match outcome {
        Outcome::Fulfilled | Outcome::Undelivered => OrderStatus::Fulfilled,
        Outcome::Refunded => OrderStatus::Refunded,
        Outcome::Scheduled | Outcome::Overdue => OrderStatus::Scheduled,
        Outcome::Delayed => OrderStatus::Delayed,
        Outcome::Unresolved => OrderStatus::Handling,
    }
}
