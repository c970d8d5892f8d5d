//! The webhook channels: Standard Webhooks 1.0.
//!
//! `webhook-id` is the event's id, the same for every attempt. `webhook-timestamp` is the time of the attempt by the
//! machine's clock, not in scaled time. `webhook-signature` has one `v1,…` for each secret; callback hosts have secrets
//! of their own. 2xx is success and the body is ignored. 410 dead-letters the event. Every other status, redirects
//! included, is a failure that is retried; `Retry-After` is honoured up to a day.

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use topup_jobs::{Event, EventId, Outcome};
use url::Url;

use super::callback::{CallbackHosts, host_of};
use super::callback_secret::CallbackSecrets;
use super::sender::Sender;
use super::signature::WebhookSecret;
use super::{CardForm, Channel, ChannelName, Delivery, SendError};
use crate::clock::real_now;
use crate::http::retry_after;
use crate::orders::Order;

/// An endpoint and its signing secret.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// URL of the endpoint.
    pub url: Url,
    /// One or more secrets; each signs every event.
    pub secret: WebhookSecret,
}

/// Longest body that is sent whole. Standard Webhooks asks for less than 20 kB, because receivers refuse large bodies.
const MAX_BYTES: usize = 20_000;

/// Sends events as signed HTTP requests.
pub struct Webhook {
    sender: Sender,
    receiver: Receiver,
}

enum Receiver {
    Merchant { endpoint: Endpoint, callbacks: CallbackHosts },
    Operator { endpoint: Endpoint },
    Callback { callbacks: CallbackHosts, secrets: CallbackSecrets },
}

impl Webhook {
    /// The merchant's endpoint. It gets the events of orders without a callback URL, and every `undelivered` event.
    #[must_use]
    pub fn merchant(sender: Sender, endpoint: Endpoint, callbacks: CallbackHosts) -> Self {
        Self { sender, receiver: Receiver::Merchant { endpoint, callbacks } }
    }

    /// The operator's endpoint. It gets the events that a person must check.
    #[must_use]
    pub fn operator(sender: Sender, endpoint: Endpoint) -> Self {
        Self { sender, receiver: Receiver::Operator { endpoint } }
    }

    /// The callback URLs of orders. They get all events except `undelivered`, which is for merchant and operator.
    #[must_use]
    pub fn callback(sender: Sender, callbacks: CallbackHosts, secrets: CallbackSecrets) -> Self {
        Self { sender, receiver: Receiver::Callback { callbacks, secrets } }
    }

    fn address(&self, order: &Order) -> Option<Url> {
        match &self.receiver {
            Receiver::Merchant { endpoint, .. } | Receiver::Operator { endpoint } => {
                Some(endpoint.url.clone())
            }
            Receiver::Callback { callbacks, .. } => callbacks.of(order),
        }
    }

    fn secret(&self, url: &Url) -> Option<WebhookSecret> {
        match &self.receiver {
            Receiver::Merchant { endpoint, .. } | Receiver::Operator { endpoint } => {
                Some(endpoint.secret.clone())
            }
            Receiver::Callback { secrets, .. } => secrets.signer(&host_of(url)?),
        }
    }
}

#[async_trait]
impl Channel for Webhook {
    fn name(&self) -> &'static str {
        match self.receiver {
            Receiver::Merchant { .. } => ChannelName::Webhook.as_str(),
            Receiver::Operator { .. } => ChannelName::OperatorWebhook.as_str(),
            Receiver::Callback { .. } => ChannelName::Callback.as_str(),
        }
    }

    fn wants(&self, outcome: Outcome, order: &Order) -> bool {
        match &self.receiver {
            Receiver::Merchant { callbacks, .. } => {
                outcome == Outcome::Undelivered || callbacks.of(order).is_none()
            }
            Receiver::Operator { .. } => outcome.concerns_operator(),
            Receiver::Callback { callbacks, .. } => {
                outcome != Outcome::Undelivered && callbacks.of(order).is_some()
            }
        }
    }

    fn reaches_receivers(&self) -> bool {
        !matches!(self.receiver, Receiver::Operator { .. })
    }

    fn card_form(&self) -> CardForm {
        CardForm::Code
    }

    fn endpoint(&self, order: &Order) -> Option<String> {
        self.address(order).map(|url| url.origin().ascii_serialization())
    }

    async fn send(&self, delivery: Delivery<'_>) -> Result<(), SendError> {
        let Some(url) = self.address(delivery.order) else {
            return Err(failed("the order's callbackUrl is no longer allowed by CALLBACK_ALLOWED_HOSTS"));
        };
        let body = body(delivery.event).ok_or_else(|| failed("the event cannot be serialised"))?;
        let headers = self.secret(&url).and_then(|secret| headers(&secret, delivery.event_id, &body));
        let headers = headers.ok_or_else(|| failed("the event cannot be signed"))?;
        let (status, headers) = self.sender.post(&url, headers, body).await?;
        match status.as_u16() {
            200..300 => Ok(()),
            410 => Err(SendError::Refused("HTTP 410: the receiver wants no more".to_owned())),
            code => {
                Err(SendError::Failed { what: format!("HTTP {code}"), retry_after: retry_after(&headers) })
            }
        }
    }
}

fn failed(what: &str) -> SendError {
    SendError::Failed { what: what.to_owned(), retry_after: None }
}

fn headers(secret: &WebhookSecret, event_id: &EventId, body: &[u8]) -> Option<HeaderMap> {
    let (id, timestamp) = (event_id.as_str(), real_now().timestamp());
    let signature = secret.sign(id, timestamp, body)?;
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    headers.insert("webhook-id", id.parse().ok()?);
    headers.insert("webhook-timestamp", timestamp.into());
    headers.insert("webhook-signature", signature.parse().ok()?);
    Some(headers)
}

/// Serialises an event. The bytes depend only on the stored event, so every attempt sends the same bytes. A body longer
/// than [`MAX_BYTES`] loses first the metadata and then the customer, because the merchant has both. A body that is
/// still too long is sent nevertheless, because the card in it matters more than the limit.
fn body(event: &Event) -> Option<Vec<u8>> {
    let whole = serde_json::to_vec(event).ok()?;
    if whole.len() <= MAX_BYTES {
        return Some(whole);
    }
    let mut shorter = event.clone();
    shorter.data.metadata = None;
    let without_metadata = serde_json::to_vec(&shorter).ok()?;
    if without_metadata.len() <= MAX_BYTES {
        return Some(without_metadata);
    }
    shorter.data.customer = None;
    serde_json::to_vec(&shorter).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use topup_jobs::{Customer, EventData, OrderStatus, Secret};

    use super::*;

    fn event(metadata: usize, name: usize, reference: usize) -> Event {
        let customer = Customer { name: Some(Secret::new("n".repeat(name))), ..Customer::default() };
        let serde_json::Value::Object(metadata) = json!({"note": "m".repeat(metadata)}) else {
            unreachable!("it is an object")
        };
        Event {
            kind: Outcome::Fulfilled.event_type(),
            timestamp: topup_jobs::Timestamp::UNIX_EPOCH,
            data: EventData {
                topup_ref: Some("r".repeat(reference)),
                card_code: Some(Secret::new("123456789012")),
                customer: Some(customer),
                metadata: Some(metadata),
                ..EventData::new(
                    "6901616fe9e88196b4eb64b2".parse().unwrap(),
                    OrderStatus::Fulfilled,
                    String::new(),
                )
            },
        }
    }

    #[test]
    fn a_body_too_long_loses_metadata_then_customer_and_never_the_card() {
        let parts = |event: &Event| {
            let body = body(event).unwrap();
            assert_eq!(Some(&body), super::body(event).as_ref(), "the same event, the same bytes");
            let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(value["data"]["cardCode"], "123456789012");
            let there = |name: &str| !value["data"][name].is_null();
            (body.len() <= MAX_BYTES, there("metadata"), there("customer"))
        };
        assert_eq!(parts(&event(4_000, 250, 250)), (true, true, true));
        assert_eq!(parts(&event(4_000, 250, 17_000)), (true, false, true));
        assert_eq!(parts(&event(4_000, 10_000, 17_000)), (true, false, false));
        assert_eq!(parts(&event(4_000, 250, 21_000)), (false, false, false));
    }

    #[test]
    fn a_body_of_exactly_the_limit_is_sent_whole() {
        let spare = MAX_BYTES - body(&event(4_000, 250, 0)).unwrap().len();
        assert_eq!(body(&event(4_000, 250, spare)).unwrap().len(), MAX_BYTES);
        assert!(body(&event(4_000, 250, spare + 1)).unwrap().len() < MAX_BYTES - 4_000);
    }
}
