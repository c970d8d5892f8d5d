//! The provider's JSON, read leniently: unknown fields are ignored, absent ones are absent.

use std::time::Duration;

use chrono::DateTime;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use topup_jobs::{Card, ProviderOrder, Secret, Timestamp, TopupStatus, TopupType};

use super::{Answer, ApiError};
use crate::http::retry_after;

/// The fields of a JSON object. Of a field that is there twice the last one counts, as for every other reader
/// of this API.
type Fields = serde_json::Map<String, Value>;

/// An order as it stands in any answer. Read it with [`WireOrder::read`].
#[derive(Deserialize)]
pub(super) struct WireOrder {
    #[serde(rename = "_id")]
    pub(super) id: Option<String>,
    #[serde(default, rename = "ref")]
    topup_ref: Lenient,
    status: String,
    #[serde(default, rename = "type")]
    kind: Lenient,
    #[serde(default)]
    number: Lenient,
    #[serde(default)]
    topup_amount: Lenient,
    #[serde(default)]
    card_code: Lenient,
    #[serde(default)]
    num_trans: Lenient,
    #[serde(default)]
    date_traitement: Lenient,
    #[serde(default)]
    created_at: Lenient,
}

impl WireOrder {
    /// The order in this value; nothing where it has no status that can be one. An array is none, though
    /// serde would read its elements as the fields in their order.
    pub(super) fn read(value: Value) -> Option<Self> {
        let order: Self = value.is_object().then(|| serde_json::from_value(value).ok()).flatten()?;
        // A status that is not known is logged.
        is_plain(&order.status).then_some(order)
    }
}

impl WireOrder {
    /// When it was created, where that is a date.
    pub(super) fn take_created_at(&mut self) -> Option<Timestamp> {
        let text = std::mem::take(&mut self.created_at).text()?;
        DateTime::parse_from_rfc3339(&text).ok().map(|at| at.to_utc())
    }
}

impl From<WireOrder> for ProviderOrder {
    fn from(order: WireOrder) -> Self {
        Self {
            status: TopupStatus::from(order.status.as_str()),
            topup_ref: order.topup_ref.text(),
            kind: order.kind.text().map(TopupType::from),
            number: order.number.text().map(Secret::new),
            topup_amount: order.topup_amount.text().and_then(|amount| amount.parse().ok()),
            card: order.card_code.text().map(|card_code| Card {
                card_code: Secret::new(card_code),
                num_trans: order.num_trans.text(),
                date_traitement: order.date_traitement.text(),
            }),
        }
    }
}

/// A field whose odd form must not cost the customer the card beside it.
#[derive(Default, Deserialize)]
struct Lenient(Value);

impl Lenient {
    /// A text, or a whole number written as one; nothing where it is empty or anything else. A number
    /// that does not fit a `u64` has lost digits on the way and is not taken.
    fn text(self) -> Option<String> {
        match self.0 {
            Value::String(text) if !text.trim().is_empty() => Some(text),
            Value::Number(number) => number.as_u64().map(|number| number.to_string()),
            _ => None,
        }
    }
}

/// What an answer that is no refusal holds.
pub(super) struct Content {
    /// What is known of the answer.
    pub(super) answer: Answer,
    pub(super) data: Value,
    /// What the envelope says of the data; null where it says nothing.
    pub(super) meta: Value,
}

/// Reads the envelope of any answer.
pub(super) fn read_content(status: u16, headers: &HeaderMap, body: &[u8]) -> Result<Content, ApiError> {
    let envelope: Option<Fields> = serde_json::from_slice(body).ok();
    let answer = describe(status, envelope.as_ref());
    if status != 200 {
        return Err(refusal(answer, retry_after(headers)));
    }
    let unreadable = |what| ApiError::Unreadable { answer: answer.clone(), what };
    let mut envelope = envelope.ok_or_else(|| unreadable("it is not the JSON of an envelope"))?;
    match (envelope.get("success"), error_code(&envelope)) {
        // What is stored of an answer may be final, so one that says both is not believed but asked again.
        (Some(Value::Bool(true)), Some(_)) => return Err(unreadable("it is a success and an error at once")),
        (Some(Value::Bool(true)) | None, None) => {}
        (Some(Value::Bool(false)) | None, _) => return Err(refusal(answer, retry_after(headers))),
        _ => return Err(unreadable("its success is neither true nor false")),
    }
    match envelope.remove("data") {
        None | Some(Value::Null) => Err(unreadable("it has no data")),
        Some(data) => Ok(Content { answer, data, meta: envelope.remove("meta").unwrap_or_default() }),
    }
}

/// Reads an answer to `check-id` for the order of this id.
pub(super) fn read_order(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    topup_id: &str,
) -> Result<ProviderOrder, ApiError> {
    let Content { answer, data, .. } = read_content(status, headers, body)?;
    let unreadable = |what| ApiError::Unreadable { answer: answer.clone(), what };
    let order = WireOrder::read(data).ok_or_else(|| unreadable("its data is not an order"))?;
    if order.id.as_ref().is_some_and(|id| !id.eq_ignore_ascii_case(topup_id)) {
        return Err(unreadable("it is about another order"));
    }
    Ok(order.into())
}

fn describe(status: u16, envelope: Option<&Fields>) -> Answer {
    let plain = |word: &str| is_plain(word).then(|| word.to_owned());
    let code = envelope.and_then(error_code);
    let request_id = envelope.and_then(|envelope| envelope.get("requestId")?.as_str());
    Answer { status, code: code.and_then(plain), request_id: request_id.and_then(plain) }
}

fn error_code(envelope: &Fields) -> Option<&str> {
    envelope.get("error")?.get("code")?.as_str()
}

/// Whether a word is safe to log: short, of letters, digits, `_` and `-` only, and not without a letter, as a
/// phone number or a card code would be.
fn is_plain(word: &str) -> bool {
    word.len() <= 64
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        && word.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn refusal(answer: Answer, retry_after: Option<Duration>) -> ApiError {
    match (answer.status, answer.code.as_deref()) {
        (200 | 404, Some("NOT_FOUND")) => ApiError::NotFound(answer),
        (401, _) | (_, Some("MISSING_ACCESS_TOKEN" | "INVALID_ACCESS_TOKEN" | "ERR_AUTH")) => {
            ApiError::Unauthorized(answer)
        }
        (403, _) | (_, Some("IP_BLOCKED" | "IP_NOT_ALLOWED" | "API_DISABLED")) => ApiError::Forbidden(answer),
        (429, _) | (_, Some("RATE_LIMIT_EXCEEDED")) => ApiError::RateLimited { answer, retry_after },
        (503, _) => match retry_after {
            Some(retry_after) => ApiError::Unavailable { answer, retry_after },
            None => ApiError::Failed(answer),
        },
        _ => ApiError::Failed(answer),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::RETRY_AFTER;

    use super::*;

    const ID: &str = "6901616fe9e88196b4eb64b2";

    fn read(status: u16, body: &str) -> Result<ProviderOrder, ApiError> {
        read_order(status, &HeaderMap::new(), body.as_bytes(), ID)
    }

    #[test]
    fn the_samples_of_the_providers_page_are_read() {
        let order = read(
            200,
            r#"{"success":true,"data":{"_id":"6901616fe9e88196b4eb64b2","ref":"order-123456","status":"FULFILLED",
               "type":"ADSL","number":"036362608","topup_amount":1000,"card_code":"123456789012",
               "num_trans":"AT-2025-12345","date_traitement":"2025-11-01T12:00:45.000Z","created_at":"2025-11-01T12:00:00.000Z"}}"#,
        )
        .unwrap();
        let card = order.card.unwrap();
        assert_eq!(order.status, TopupStatus::Fulfilled);
        assert_eq!((order.kind, order.topup_amount), (Some(TopupType::Adsl), Some(1000)));
        assert_eq!(card.card_code.reveal(), "123456789012");
        assert_eq!(card.num_trans.as_deref(), Some("AT-2025-12345"));
    }

    #[test]
    fn an_empty_card_code_is_no_card() {
        for code in ["\"\"", "\"  \"", "null", "true", "1.5", "123456789012345678901234"] {
            let body = format!(r#"{{"success":true,"data":{{"status":"FULFILLED","card_code":{code}}}}}"#);
            assert_eq!(read(200, &body).unwrap().card, None, "{code}");
        }
    }

    #[test]
    fn an_odd_field_does_not_cost_the_card() {
        let body = r#"{"success":true,"data":{"status":"FULFILLED","ref":17,"type":null,"number":36362608,
            "topup_amount":"1000","card_code":123456789012,"num_trans":5,"date_traitement":[1]}}"#;
        let order = read(200, body).unwrap();
        assert_eq!((order.topup_ref.as_deref(), order.topup_amount), (Some("17"), Some(1000)));
        let card = order.card.unwrap();
        assert_eq!(card.card_code.reveal(), "123456789012");
        assert_eq!((card.num_trans.as_deref(), card.date_traitement), (Some("5"), None));
    }

    #[test]
    fn every_envelope_ends_in_a_typed_error() {
        let error = |code| {
            format!(r#"{{"success":false,"error":{{"code":"{code}","message":"m"}},"requestId":"req_1"}}"#)
        };
        let not_found = read(404, &error("NOT_FOUND")).unwrap_err();
        assert_eq!(
            not_found.to_string(),
            "the provider does not know this order: HTTP 404 NOT_FOUND (req_1)"
        );
        let router = read(404, r#"{"message":"Route not found","error":"Not Found","statusCode":404}"#);
        assert!(matches!(router, Err(ApiError::Failed(_))));
        assert!(matches!(read(401, &error("ERR_AUTH")), Err(ApiError::Unauthorized(_))));
        assert!(matches!(read(403, &error("IP_BLOCKED")), Err(ApiError::Forbidden(_))));
        assert!(matches!(
            read(429, &error("RATE_LIMIT_EXCEEDED")),
            Err(ApiError::RateLimited { retry_after: None, .. })
        ));
        assert!(matches!(read(503, &error("SERVICE_UNAVAILABLE")), Err(ApiError::Failed(_))));
        assert!(matches!(read(500, "<html>"), Err(ApiError::Failed(_))));
        let other = r#"{"success":true,"data":{"_id":"6901616fe9e88196b4eb64b3","status":"HANDLING"}}"#;
        for body in [
            "",
            "<html>",
            "[]",
            "{}",
            "null",
            r#"{"success":true,"data":{}}"#,
            r#"{"success":true,"data":[1]}"#,
            other,
        ] {
            let error = read(200, body).unwrap_err();
            assert!(matches!(error, ApiError::Unreadable { .. }) && error.says_nothing(), "{body}");
        }
    }

    #[test]
    fn what_an_error_repeats_is_safe_to_log() {
        for (code, request_id) in [("call 0661223344", "a b"), ("0661223344", "213-661-223-344"), ("", "é")]
        {
            let body =
                format!(r#"{{"success":false,"error":{{"code":"{code}"}},"requestId":"{request_id}"}}"#);
            assert_eq!(read(500, &body).unwrap_err().to_string(), "the provider failed: HTTP 500");
        }
        // An unknown status is logged as well.
        for status in ["0661223344", "call 0661223344", ""] {
            let body = format!(r#"{{"success":true,"data":{{"status":"{status}"}}}}"#);
            assert!(matches!(read(200, &body), Err(ApiError::Unreadable { .. })), "{status}");
        }
    }

    #[test]
    fn retry_after_closes_the_gate() {
        let closed_for = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            let body = br#"{"success":false,"error":{"code":"AUTH_UNAVAILABLE"}}"#;
            read_order(503, &headers, body, ID).unwrap_err().closes_for()
        };
        assert_eq!(closed_for("5"), Some(Duration::from_secs(5)));
        let then = crate::clock::real_now() + Duration::from_mins(2);
        let wait = closed_for(&then.format("%a, %d %b %Y %H:%M:%S GMT").to_string()).unwrap();
        assert!(wait > Duration::from_mins(1) && wait <= Duration::from_mins(2), "{wait:?}");
        assert_eq!(closed_for("soon"), None, "a failure like any other");
    }
}
