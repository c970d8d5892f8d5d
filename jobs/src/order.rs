//! Orders as the provider returns them and as this service stores them. `Debug` hides phone numbers, e-mail addresses
//! and card codes, so that a printed struct cannot leak them into a log.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The provider's id of an order: 24 hex digits, kept in lower case.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", extend("pattern" = "^[0-9a-fA-F]{24}$"))]
pub struct TopupId(String);

/// The text is not an order id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a topupId has 24 hexadecimal digits, as in the answer to POST /internet/send")]
pub struct InvalidTopupId;

impl TopupId {
    /// The 24 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// When the provider created the order. Like every ObjectId of MongoDB, the id begins with the seconds since 1970.
    /// The provider's pages do not document that, so the time is only a hint.
    #[must_use]
    pub fn created_at(&self) -> Option<Timestamp> {
        let seconds = i64::from_str_radix(self.0.get(..8)?, 16).ok()?;
        Timestamp::from_timestamp(seconds, 0)
    }
}

impl TryFrom<String> for TopupId {
    type Error = InvalidTopupId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidTopupId)
        }
    }
}

impl std::str::FromStr for TopupId {
    type Err = InvalidTopupId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl From<TopupId> for String {
    fn from(id: TopupId) -> Self {
        id.0
    }
}

impl fmt::Display for TopupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that `Debug` does not show: personal data or a card code.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text from `Debug`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The hidden text. Use it only for the store and for a message to the person to whom it belongs.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// Language of the texts for a customer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Locale {
    /// French, the default.
    #[default]
    Fr,
    /// Arabic.
    Ar,
    /// English.
    En,
}

/// The customer of an order, as the merchant described them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Customer {
    /// Name, for the salutation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Secret>,
    /// E-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Secret>,
    /// Phone number for SMS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<Secret>,
    /// Language of the texts.
    #[serde(default)]
    pub locale: Locale,
}

/// Kind of internet top-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum TopupType {
    /// `ADSL`: a landline number, `0[0-9]{8}`.
    Adsl,
    /// `4G`: `213[0-9]{9}`.
    FourG,
    /// A kind that the provider's documentation does not name, unchanged.
    Other(String),
}

impl From<String> for TopupType {
    fn from(text: String) -> Self {
        match text.as_str() {
            "ADSL" => Self::Adsl,
            "4G" => Self::FourG,
            _ => Self::Other(text),
        }
    }
}

impl From<TopupType> for String {
    fn from(kind: TopupType) -> Self {
        match kind {
            TopupType::Adsl => "ADSL".to_owned(),
            TopupType::FourG => "4G".to_owned(),
            TopupType::Other(text) => text,
        }
    }
}

/// Status of an order at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopupStatus {
    /// Being processed by the carrier.
    Handling,
    /// The card is available.
    Fulfilled,
    /// Scheduled for 12–48 hours from now; not a failure.
    Queued,
    /// Cancelled and refunded by the provider.
    Refunded,
    /// A status that the provider's documentation does not name; treated as not final.
    Unknown(String),
}

impl From<&str> for TopupStatus {
    fn from(text: &str) -> Self {
        match text {
            "HANDLING" => Self::Handling,
            "FULFILLED" => Self::Fulfilled,
            "QUEUED" => Self::Queued,
            "REFUNDED" => Self::Refunded,
            other => Self::Unknown(other.to_owned()),
        }
    }
}

/// The card of a fulfilled order. Events carry all three fields (the provider's guide, "Card Code Delivery").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The code that the customer types in.
    pub card_code: Secret,
    /// Proof of purchase.
    pub num_trans: Option<String>,
    /// When the carrier processed the order, as the provider wrote it.
    pub date_traitement: Option<String>,
}

impl Card {
    /// Whether the card has all three fields. An order in the provider's list of orders lacks the date.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.num_trans.is_some() && self.date_traitement.is_some()
    }
}

/// An order as the provider returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderOrder {
    /// Status at the provider.
    pub status: TopupStatus,
    /// The merchant's reference.
    pub topup_ref: Option<String>,
    /// Kind of top-up.
    pub kind: Option<TopupType>,
    /// The number that was topped up.
    pub number: Option<Secret>,
    /// Amount in dinars.
    pub topup_amount: Option<i64>,
    /// The card of a FULFILLED order; absent if the code is missing or empty.
    pub card: Option<Card>,
}

impl ProviderOrder {
    /// An order of which only the status is known.
    #[must_use]
    pub fn new(status: TopupStatus) -> Self {
        Self { status, topup_ref: None, kind: None, number: None, topup_amount: None, card: None }
    }
}

/// Status of an order in this service's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum OrderStatus {
    /// Tracked at the fast pace.
    Handling,
    /// QUEUED at the provider; rechecked after 24 h, then every 12 h.
    Scheduled,
    /// Not final when fast polling ended; rechecked with growing waits.
    Delayed,
    /// Final: the card is stored.
    Fulfilled,
    /// Final: refunded by the provider.
    Refunded,
}

/// The text is not the status of a stored order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a status of a stored order")]
pub struct UnknownOrderStatus;

impl OrderStatus {
    /// Every status, from the first to the final ones.
    pub const ALL: [Self; 5] =
        [Self::Handling, Self::Scheduled, Self::Delayed, Self::Fulfilled, Self::Refunded];

    /// Whether the status is final: nothing changes the order any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Fulfilled | Self::Refunded)
    }

    /// The status as the store and the events write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handling => "HANDLING",
            Self::Scheduled => "SCHEDULED",
            Self::Delayed => "DELAYED",
            Self::Fulfilled => "FULFILLED",
            Self::Refunded => "REFUNDED",
        }
    }
}

impl fmt::Display for OrderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for OrderStatus {
    type Err = UnknownOrderStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(UnknownOrderStatus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_24_hex_digits_in_lower_case() {
        let id: TopupId = "6901616FE9E88196B4EB64B2".parse().unwrap();
        assert_eq!(id.as_str(), "6901616fe9e88196b4eb64b2");
        for bad in ["", "6901616fe9e88196b4eb64b", "6901616fe9e88196b4eb64b2a", "6901616fe9e88196b4eb64bz"] {
            assert_eq!(bad.parse::<TopupId>(), Err(InvalidTopupId), "{bad}");
        }
    }

    #[test]
    fn an_id_holds_the_creation_time_of_its_order() {
        let id: TopupId = "6901616FE9E88196B4EB64B2".parse().unwrap();
        assert_eq!(id.created_at().unwrap().to_rfc3339(), "2025-10-29T00:35:59+00:00");
    }

    #[test]
    fn debug_hides_what_is_personal_or_worth_money() {
        let customer = Customer {
            name: Some(Secret::new("Amina")),
            email: Some(Secret::new("amina@example.dz")),
            phone: Some(Secret::new("0661223344")),
            locale: Locale::Ar,
        };
        let card = Card { card_code: Secret::new("123456789012"), num_trans: None, date_traitement: None };
        let shown = format!("{customer:?} {card:?}");
        for hidden in ["Amina", "amina@", "0661", "1234"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }

    #[test]
    fn statuses_read_back_as_written() {
        for status in OrderStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(status));
        }
        assert_eq!(TopupStatus::from("PENDING"), TopupStatus::Unknown("PENDING".to_owned()));
    }
}
