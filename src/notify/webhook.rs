//! The webhook channel: Standard Webhooks 1.0.
//!
//! `webhook-id` is the event's id and the same for every attempt, `webhook-timestamp` the real time of the
//! attempt, `webhook-signature` one `v1,…` for each secret. 2xx is success; a redirect is a failure and is
//! not followed; 410 ends the event; `Retry-After` is honoured up to a
//! week.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use topup_jobs::Outcome;
use url::Url;

use super::{CardForm, Channel, Delivery, SendError};
use crate::clock::real_now;
use crate::config::Endpoint;
use crate::orders::Order;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Standard Webhooks recommends 15 to 30 seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// One or more signing secrets, the newest first.
#[derive(Clone)]
pub struct WebhookSecret(Arc<[standardwebhooks::Webhook]>);

/// The secret cannot sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the webhook secret must be \"whsec_\" and 24 to 64 bytes in base64; several are separated by spaces or commas"
)]
pub struct InvalidSecret;

impl WebhookSecret {
    /// Reads one or more `whsec_…`, separated by spaces or commas.
    ///
    /// # Errors
    /// [`InvalidSecret`] where one of them is not of that form, or none is there.
    pub fn parse(text: &SecretString) -> Result<Self, InvalidSecret> {
        let words = text.expose_secret().split([' ', ',']).filter(|word| !word.is_empty());
        let signers = words.map(|word| {
            // Standard Webhooks asks for 24 to 64 bytes: 32 to 88 characters of base64.
            let encoded = word.strip_prefix("whsec_").ok_or(InvalidSecret)?;
            let fits = (32..=88).contains(&encoded.len());
            standardwebhooks::Webhook::new(word).ok().filter(|_| fits).ok_or(InvalidSecret)
        });
        let signers = signers.collect::<Result<Vec<_>, _>>()?;
        if signers.is_empty() { Err(InvalidSecret) } else { Ok(Self(signers.into())) }
    }

    /// `webhook-signature` for these bytes, or nothing where the id cannot be signed.
    fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
        let signatures: Option<Vec<_>> =
            self.0.iter().map(|signer| signer.sign(id, timestamp, body).ok()).collect();
        signatures.map(|signatures| signatures.join(" "))
    }
}

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

/// An endpoint that is told by signed HTTP requests.
pub struct Webhook {
    http: reqwest::Client,
    name: &'static str,
    url: Url,
    secret: WebhookSecret,
    only_operator: bool,
}

impl Webhook {
    /// The merchant's endpoint: it is told everything.
    ///
    /// # Errors
    /// `reqwest::Error` where the HTTP stack cannot be set up.
    pub fn merchant(endpoint: Endpoint) -> Result<Self, reqwest::Error> {
        Self::new("webhook", endpoint, false)
    }

    /// The operator's endpoint: it is told what a human must look at.
    ///
    /// # Errors
    /// `reqwest::Error` where the HTTP stack cannot be set up.
    pub fn operator(endpoint: Endpoint) -> Result<Self, reqwest::Error> {
        Self::new("operator-webhook", endpoint, true)
    }

    fn new(
        name: &'static str,
        Endpoint { url, secret }: Endpoint,
        only_operator: bool,
    ) -> Result<Self, reqwest::Error> {
        let http = crate::http::client_builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, name, url, secret, only_operator })
    }

    /// Greets the receiver with a `HEAD` request and returns the status it answers with. That carries no
    /// event and no signature; a receiver answers as it likes to a method it has no use for.
    ///
    /// # Errors
    /// Why there was no answer, in words without the address.
    pub async fn greet(&self) -> Result<u16, &'static str> {
        let answer = self.http.head(self.url.clone()).send().await.map_err(|error| classify(&error))?;
        Ok(answer.status().as_u16())
    }
}

#[async_trait]
impl Channel for Webhook {
    fn name(&self) -> &'static str {
        self.name
    }

    fn wants(&self, outcome: Outcome, _: &Order) -> bool {
        !self.only_operator || outcome.concerns_operator()
    }

    fn card_form(&self) -> CardForm {
        CardForm::Code
    }

    async fn send(&self, delivery: Delivery<'_>) -> Result<(), SendError> {
        let body = serde_json::to_vec(delivery.event).map_err(|_| failed("the event cannot be written"))?;
        let (id, timestamp) = (delivery.event_id.as_str(), real_now().timestamp());
        let signature =
            self.secret.sign(id, timestamp, &body).ok_or_else(|| failed("the event cannot be signed"))?;
        let response = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body)
            .send()
            .await
            .map_err(|error| failed(classify(&error)))?;
        let status = response.status();
        match status.as_u16() {
            200..300 => Ok(()),
            410 => Err(SendError::Refused("HTTP 410: the receiver wants no more".to_owned())),
            code => Err(SendError::Failed {
                what: format!("HTTP {code}"),
                retry_after: retry_after(response.headers()),
            }),
        }
    }
}

fn failed(what: &str) -> SendError {
    SendError::Failed { what: what.to_owned(), retry_after: None }
}

/// The error in a few words of our own: those of the HTTP stack contain the address.
fn classify(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        crate::http::no_connection(error)
    } else {
        "the connection broke off"
    }
}

/// `Retry-After`, in seconds or as a date. More than a week is taken for a mistake and cut to that.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_hours(7 * 24);
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = value.parse() {
        Duration::from_secs(seconds)
    } else {
        let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
        (date.to_utc() - real_now()).to_std().ok()?
    };
    Some(wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// The published vector of the Standard Webhooks libraries.
    #[test]
    fn the_published_vector_is_met() {
        let secret = WebhookSecret::parse(&SECRET.into()).unwrap();
        let signature =
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn several_secrets_sign_side_by_side() {
        let two = format!("{SECRET} whsec_{}", "B".repeat(32));
        let signature = WebhookSecret::parse(&two.into()).unwrap().sign("evt", 1, b"{}").unwrap();
        assert_eq!(signature.split(' ').filter(|one| one.starts_with("v1,")).count(), 2);
        for bad in ["", "secret", "whsec_", "whsec_short", &format!("{SECRET} nonsense")] {
            assert_eq!(WebhookSecret::parse(&bad.into()).err(), Some(InvalidSecret), "{bad}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let header = |value: &str| HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
        assert_eq!(retry_after(&header("120")), Some(Duration::from_mins(2)));
        let date = (real_now() + Duration::from_hours(1)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let wait = retry_after(&header(&date)).unwrap();
        assert!(wait > Duration::from_secs(3500) && wait <= Duration::from_hours(1), "{wait:?}");
        assert_eq!(retry_after(&header("soon")), None);
        assert_eq!(retry_after(&header("99999999999")), Some(Duration::from_hours(7 * 24)));
    }
}
