//! The provider's JSON, read leniently: unknown fields are ignored, absent ones are absent.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use topup_jobs::{Card, ProviderOrder, Secret, TopupStatus, TopupType};

use super::{Answer, ApiError};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    success: Option<bool>,
    data: Option<serde_json::Value>,
    error: Option<serde_json::Value>,
    request_id: Option<String>,
}

#[derive(Deserialize)]
struct WireOrder {
    #[serde(rename = "_id")]
    id: Option<String>,
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
}

/// A field whose odd form must not cost the customer the card beside it.
#[derive(Default, Deserialize)]
struct Lenient(serde_json::Value);

impl Lenient {
    /// A text, or a whole number written as one; nothing where it is empty or anything else. A number
    /// that does not fit a `u64` has lost digits on the way and is not taken.
    fn text(self) -> Option<String> {
        match self.0 {
            serde_json::Value::String(text) if !text.trim().is_empty() => Some(text),
            serde_json::Value::Number(number) => number.as_u64().map(|number| number.to_string()),
            _ => None,
        }
    }
}

/// Reads the envelope of any answer: what is known of the answer, and its data.
pub(super) fn read_data(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(Answer, serde_json::Value), ApiError> {
    let envelope = serde_json::from_slice::<Envelope>(body);
    let answer = describe(status, envelope.as_ref().ok());
    if status != 200 {
        return Err(refusal(answer, retry_after(headers)));
    }
    let unreadable = |what| ApiError::Unreadable { answer: answer.clone(), what };
    let envelope = envelope.map_err(|_| unreadable("it is not the JSON of an envelope"))?;
    if envelope.success == Some(false) {
        return Err(refusal(answer, retry_after(headers)));
    }
    let data = envelope.data.ok_or_else(|| unreadable("it has no data"))?;
    Ok((answer, data))
}

/// Reads an answer to `check-id` for the order of this id.
pub(super) fn read_order(
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    topup_id: &str,
) -> Result<ProviderOrder, ApiError> {
    let (answer, data) = read_data(status, headers, body)?;
    let unreadable = |what| ApiError::Unreadable { answer: answer.clone(), what };
    let order: WireOrder =
        serde_json::from_value(data).map_err(|_| unreadable("its data is not an order"))?;
    if order.id.is_some_and(|id| !id.eq_ignore_ascii_case(topup_id)) {
        return Err(unreadable("it is about another order"));
    }
    Ok(ProviderOrder {
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
    })
}

fn describe(status: u16, envelope: Option<&Envelope>) -> Answer {
    let code = envelope.and_then(|envelope| envelope.error.as_ref()?.get("code")?.as_str());
    let request_id = envelope.and_then(|envelope| envelope.request_id.as_deref());
    Answer { status, code: code.and_then(plain), request_id: request_id.and_then(plain) }
}

/// A word that is safe to log: nothing but letters, digits, `_` and `-`.
fn plain(word: &str) -> Option<String> {
    let plain =
        word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    plain.then(|| word.to_owned())
}

fn refusal(answer: Answer, retry_after: Option<Duration>) -> ApiError {
    match (answer.status, answer.code.as_deref()) {
        (_, Some("NOT_FOUND")) => ApiError::NotFound(answer),
        (401, _) | (_, Some("MISSING_ACCESS_TOKEN" | "INVALID_ACCESS_TOKEN" | "ERR_AUTH")) => {
            ApiError::Unauthorized(answer)
        }
        (403, _) => ApiError::Forbidden(answer),
        (429, _) | (_, Some("RATE_LIMIT_EXCEEDED")) => ApiError::RateLimited { answer, retry_after },
        (503, _) => match retry_after {
            Some(retry_after) => ApiError::Unavailable { answer, retry_after },
            None => ApiError::Failed(answer),
        },
        _ => ApiError::Failed(answer),
    }
}

/// `Retry-After` in seconds. The form with a date is not used by the provider and is ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
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
            assert!(matches!(read(200, body), Err(ApiError::Unreadable { .. })), "{body}");
        }
    }

    #[test]
    fn what_an_error_repeats_is_safe_to_log() {
        let body = r#"{"success":false,"error":{"code":"call 0661223344"},"requestId":"a b"}"#;
        assert_eq!(read(500, body).unwrap_err().to_string(), "the provider failed: HTTP 500");
    }

    #[test]
    fn retry_after_closes_the_gate() {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "5".parse().unwrap())]);
        let body = br#"{"success":false,"error":{"code":"AUTH_UNAVAILABLE"}}"#;
        let error = read_order(503, &headers, body, ID).unwrap_err();
        assert_eq!(error.closes_gate(), Some(Duration::from_secs(5)));
    }
}
