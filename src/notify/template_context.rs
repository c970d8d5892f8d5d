//! The variables of the templates: the values of one delivery, formatted for the reader's language.
//!
//! The name of a field is the name of its variable. `templates/README.md` lists the variables for merchants, and a test
//! compares that list with this struct. A value that does not apply is `none`. No variable holds a customer's address.

use serde::Serialize;
use serde_json::{Map, Value};
use topup_jobs::{Locale, Outcome, Secret, Timestamp, TopupType, Undelivered};

use super::formats::{self, one_line};
use super::{CardForm, ChannelName, Delivery, message};
use crate::digits::DIGITS;

#[derive(Serialize)]
pub(super) struct TemplateContext<'a> {
    event_id: &'a str,
    outcome: Outcome,
    locale: Locale,
    dir: &'static str,
    message: &'static str,
    happened_at: String,
    topup_id: &'a str,
    reference: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    service: String,
    number: Option<String>,
    topup_amount: Option<i64>,
    amount: Option<String>,
    customer_name: Option<String>,
    next_check_at: Option<String>,
    card_code: Option<&'a str>,
    num_trans: Option<String>,
    processed_at: Option<String>,
    reveal_link: Option<&'a str>,
    undelivered: Option<UndeliveredContext<'a>>,
    metadata: Map<String, Value>,
}

/// The notification that an `undelivered` event reports.
#[derive(Serialize)]
struct UndeliveredContext<'a> {
    event_id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    channel: &'a str,
    reason: String,
    /// Whether a channel failed; false if the order had no channel to customer or merchant at all.
    by_channel: bool,
}

impl<'a> UndeliveredContext<'a> {
    fn new(of: &'a Undelivered) -> Self {
        Self {
            event_id: &of.event_id,
            kind: &of.kind,
            channel: &of.channel,
            reason: one_line(&of.reason),
            by_channel: of.channel != ChannelName::None.as_str(),
        }
    }
}

impl<'a> TemplateContext<'a> {
    pub(super) fn new(delivery: Delivery<'a>, locale: Locale) -> Self {
        let data = &delivery.event.data;
        let customer = data.customer.as_ref();
        Self {
            event_id: delivery.event_id.as_str(),
            outcome: delivery.outcome,
            locale,
            dir: if locale == Locale::Ar { "rtl" } else { "ltr" },
            message: message(delivery.outcome, locale),
            happened_at: formats::moment(delivery.event.timestamp, locale),
            topup_id: data.topup_id.as_str(),
            reference: data.topup_ref.as_deref().map(one_line),
            kind: data.kind.clone().map(String::from),
            service: service(data.kind.as_ref(), locale),
            number: data.number.as_ref().map(|number| one_line(number.reveal())),
            topup_amount: data.topup_amount,
            amount: data.topup_amount.map(|dinars| formats::amount(dinars, locale)),
            customer_name: customer
                .and_then(|customer| customer.name.as_ref())
                .map(|name| one_line(name.reveal())),
            next_check_at: data.next_check_at.map(|at| formats::moment(at, locale)),
            card_code: data.card_code.as_ref().map(Secret::reveal),
            num_trans: data.num_trans.as_deref().map(one_line),
            processed_at: data.date_traitement.as_deref().map(|at| processed_at(at, locale)),
            reveal_link: delivery.reveal_link,
            undelivered: data.undelivered.as_ref().map(UndeliveredContext::new),
            metadata: data.metadata.clone().unwrap_or_default(),
        }
    }

    /// Adapts the values to the card form of a channel. If the channel sends links to the card page, the last digits of
    /// the number are masked in every message. The page asks for these digits, so no message may hold link and digits.
    pub(super) fn carrying(mut self, card: CardForm) -> Self {
        if card == CardForm::Link {
            self.number = self.number.map(|number| without_ending(&number));
        }
        self
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }
}

/// Masks the last digits of a number, which the card page asks for.
fn without_ending(number: &str) -> String {
    let mut last_digits = number.char_indices().filter(|(_, at)| at.is_numeric()).rev();
    let end = last_digits.nth(DIGITS - 1).map_or(0, |(at, _)| at);
    number[..end].chars().chain(std::iter::repeat_n('•', DIGITS)).collect()
}

/// The name of the topped-up service, in a form that fits into a sentence.
fn service(kind: Option<&TopupType>, locale: Locale) -> String {
    match kind {
        Some(TopupType::Adsl) => "ADSL".to_owned(),
        Some(TopupType::FourG) => "4G LTE".to_owned(),
        Some(TopupType::Other(kind)) => one_line(kind),
        None if locale == Locale::Ar => "الإنترنت".to_owned(),
        None => "internet".to_owned(),
    }
}

/// Formats the provider's `date_traitement`; a text that is not a timestamp stays unchanged.
pub(crate) fn processed_at(text: &str, locale: Locale) -> String {
    text.parse::<Timestamp>().map_or_else(|_| text.to_owned(), |at| formats::moment(at, locale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::samples;

    #[test]
    fn the_readme_lists_every_variable_and_no_other() {
        let sample = samples::all().remove(0);
        let Value::Object(context) =
            serde_json::to_value(TemplateContext::new(sample.delivery(), Locale::Fr)).unwrap()
        else {
            panic!("the context is an object")
        };
        let table = include_str!("templates/README.md").lines().filter_map(|line| line.strip_prefix("| `"));
        let mut listed: Vec<_> = table.map(|row| row.split('`').next().unwrap().to_owned()).collect();
        listed.sort();
        let mut known: Vec<_> = context.keys().cloned().collect();
        known.sort();
        assert_eq!(listed, known);
    }

    #[test]
    fn a_channel_with_links_masks_the_last_digits_of_the_number() {
        let sample = samples::full(Outcome::Scheduled, Some(TopupType::Adsl), samples::Shown::Nothing);
        let number = |card| TemplateContext::new(sample.delivery(), Locale::Fr).carrying(card).number;
        assert_eq!(number(CardForm::Link).as_deref(), Some("03636••••"));
        for card in [CardForm::Code, CardForm::Nothing] {
            assert_eq!(number(card).as_deref(), Some("036362608"));
        }
        assert_eq!(without_ending("12"), "••••");
    }

    #[test]
    fn a_time_of_the_provider_that_cannot_be_read_stays_as_it_is() {
        assert_eq!(processed_at("2025-11-01T12:00:45.000Z", Locale::En), "1 November 2025 at 13:00");
        assert_eq!(processed_at("hier", Locale::En), "hier");
    }
}
