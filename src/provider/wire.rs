//! Reads the provider's answers: the envelope and the order inside it.
//!
//! Reading is lenient: unknown fields are ignored, and an optional field that cannot be read is logged and ignored.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::DateTime;
use reqwest::header::HeaderMap;
use topup_jobs::{Card, ProviderOrder, Secret, Timestamp, TopupStatus, TopupType};

use super::json::{Fields, Text};
use super::{Answer, ApiError};
use crate::http::retry_after;

/// An order in an answer to `check-id` or in a row of the list. [`WireOrder::read`] makes it.
pub(super) struct WireOrder<'a> {
    fields: Fields<'a>,
    status: TopupStatus,
}

impl<'a> WireOrder<'a> {
    /// The order in these fields, or `None` if the status is missing or not a plausible word.
    pub(super) fn read(fields: Fields<'a>) -> Option<Self> {
        let word = fields.str("status")?.trim().to_ascii_uppercase();
        // An unknown status is logged, so the word must be safe to log.
        is_plain(&word).then(|| Self { fields, status: TopupStatus::from(word.as_str()) })
    }

    /// Whether the order has this id. An order without an id counts as the requested one.
    fn may_be(&self, topup_id: &str) -> bool {
        self.fields.get("_id").is_none()
            || self.fields.str("_id").is_some_and(|id| id.trim().eq_ignore_ascii_case(topup_id))
    }

    /// The field `created_at`, if it is an RFC 3339 date.
    pub(super) fn created_at(&self) -> Option<Timestamp> {
        DateTime::parse_from_rfc3339(&self.fields.text("created_at")?).ok().map(|at| at.to_utc())
    }
}

impl From<WireOrder<'_>> for ProviderOrder {
    fn from(order: WireOrder<'_>) -> Self {
        let WireOrder { fields, status } = order;
        for (name, oddity) in ODD_FIELDS {
            if fields.get(name).is_some_and(|json| !is_empty(json)) && fields.text(name).is_none() {
                say_once(oddity);
            }
        }
        if fields.get("card_code").is_some_and(|json| json.starts_with(|at: char| at.is_ascii_digit())) {
            say_once("its card_code is a number, so leading zeros may be missing");
        }
        let amount = fields.text("topup_amount");
        let topup_amount = amount.as_deref().and_then(dinars);
        if amount.is_some() && topup_amount.is_none() {
            say_once("its topup_amount is not a whole number of dinars");
        }
        Self {
            status,
            topup_ref: fields.text("ref"),
            kind: fields.text("type").map(|kind| TopupType::from(kind.trim().to_ascii_uppercase())),
            number: fields.text("number").map(Secret::new),
            topup_amount,
            card: fields.text("card_code").map(|card_code| Card {
                card_code: Secret::new(card_code),
                num_trans: fields.text("num_trans"),
                date_traitement: fields.text("date_traitement"),
            }),
        }
    }
}

/// For each field, the oddity that is logged if its value is neither a text nor a whole number.
const ODD_FIELDS: [(&str, &str); 7] = [
    ("ref", "its ref cannot be read"),
    ("type", "its type cannot be read"),
    ("number", "its number cannot be read"),
    ("topup_amount", "its topup_amount cannot be read"),
    ("card_code", "its card_code cannot be read"),
    ("num_trans", "its num_trans cannot be read"),
    ("date_traitement", "its date_traitement cannot be read"),
];

/// Whether a field's JSON is an empty text or only spaces.
fn is_empty(json: &str) -> bool {
    json.trim_matches('"').trim().is_empty()
}

/// Reads an amount written in any usual way: `1000`, `1000.00`, `1 000`, `1,000.00`, `1 000,00 DA`. Returns `None`
/// if it is not a whole number of dinars.
fn dinars(amount: &str) -> Option<i64> {
    let amount = amount.trim().trim_end_matches(|at: char| at.is_ascii_alphabetic() || at == '.').trim_end();
    // A point or comma before the last one or two digits begins the fraction. Elsewhere it separates thousands.
    let fraction = amount.rfind(['.', ',']).filter(|at| (2..=3).contains(&(amount.len() - at)));
    let (whole, zeros) = fraction.map_or((amount, ""), |at| (&amount[..at], &amount[at + 1..]));
    let mut groups = whole.split(|at: char| matches!(at, ',' | '.' | '\'') || at.is_whitespace());
    let mut digits = groups.next()?.to_owned();
    let first_group = digits.len();
    for thousands in groups {
        if first_group > 3 || thousands.len() != 3 {
            return None;
        }
        digits.push_str(thousands);
    }
    let are_digits = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    (are_digits && zeros.bytes().all(|digit| digit == b'0')).then(|| digits.parse().ok()).flatten()
}

/// An HTTP answer with its body as text, not yet parsed.
pub(super) struct RawAnswer<'a> {
    pub(super) status: u16,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Text,
}

/// The parsed envelope of a successful answer.
pub(super) struct Content<'a> {
    /// Status, code and request id, for an error that is found later in the content.
    pub(super) answer: Answer,
    /// The fields of `data`, or `None` if that is not an object.
    pub(super) data: Option<Fields<'a>>,
    /// The fields of `meta`, if that is an object.
    pub(super) meta: Option<Fields<'a>>,
}

/// Reads the envelope of an answer of any endpoint.
pub(super) fn read_content<'a>(raw: &RawAnswer<'a>) -> Result<Content<'a>, ApiError> {
    let envelope = Fields::read(&raw.body.text);
    let answer = describe(raw.status, envelope.as_ref());
    if raw.status != 200 {
        return Err(refusal(answer, retry_after(raw.headers)));
    }
    let unreadable = |what| ApiError::Unreadable { answer: answer.clone(), what };
    let envelope = envelope.ok_or_else(|| unreadable("it is not the documented JSON envelope"))?;
    let success = envelope.get("success").map(|_| envelope.bool("success"));
    match (success, error_code(&envelope)) {
        // A final status that is stored cannot be undone, so an answer that contradicts itself is not used.
        (Some(Some(true)), Some(_)) => return Err(unreadable("it reports both a success and an error")),
        (Some(Some(true)) | None, None) => {}
        (Some(Some(false)) | None, _) => return Err(refusal(answer, retry_after(raw.headers))),
        (Some(None), _) => return Err(unreadable("its field success is neither true nor false")),
    }
    if envelope.get("data").is_none() {
        return Err(unreadable("it has no data"));
    }
    for oddity in &raw.body.oddities {
        say_once(oddity);
    }
    Ok(Content { answer, data: envelope.object("data"), meta: envelope.object("meta") })
}

/// Logs an oddity of the provider's answers. Each oddity is logged once in a process.
fn say_once(oddity: &'static str) {
    static SAID: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(oddity) {
        tracing::warn!(
            oddity,
            "an answer of the provider was odd, but could be read; this oddity is not logged again by this process"
        );
    }
}

pub(super) fn read_order(raw: &RawAnswer<'_>, topup_id: &str) -> Result<ProviderOrder, ApiError> {
    let Content { answer, data, .. } = read_content(raw)?;
    let unreadable = |what| ApiError::Unreadable { answer: answer.clone(), what };
    let order = data.and_then(WireOrder::read).ok_or_else(|| unreadable("its data is not an order"))?;
    if !order.may_be(topup_id) {
        return Err(unreadable("it is about another order"));
    }
    Ok(order.into())
}

fn describe(status: u16, envelope: Option<&Fields<'_>>) -> Answer {
    let plain = |word: String| Some(word).filter(|word| is_plain(word));
    let code = envelope.and_then(error_code);
    let request_id = envelope.and_then(|envelope| envelope.str("requestId"));
    Answer { status, code: code.and_then(plain), request_id: request_id.and_then(plain) }
}

fn error_code(envelope: &Fields<'_>) -> Option<String> {
    envelope.object("error")?.str("code")
}

/// Whether a word is safe to log: at most 64 letters, digits, `_` and `-`, with at least one letter. A word without a
/// letter could be a phone number or a card code.
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
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use proptest::prelude::*;
    use reqwest::header::RETRY_AFTER;

    use super::super::client::MAX_ORDER_BYTES;
    use super::*;

    const ID: &str = "6901616fe9e88196b4eb64b2";

    fn read_bytes(status: u16, headers: &HeaderMap, body: &[u8]) -> Result<ProviderOrder, ApiError> {
        let body = Text::read(body, MAX_ORDER_BYTES);
        read_order(&RawAnswer { status, headers, body: &body }, ID)
    }

    fn read(status: u16, body: &str) -> Result<ProviderOrder, ApiError> {
        read_bytes(status, &HeaderMap::new(), body.as_bytes())
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
        for code in ["\"\"", "\"  \"", "null", "true", "1.5", "1e30", "-5", "[1]", "{}"] {
            let body = format!(r#"{{"success":true,"data":{{"status":"FULFILLED","card_code":{code}}}}}"#);
            assert_eq!(read(200, &body).unwrap().card, None, "{code}");
        }
    }

    /// An answer with a FULFILLED order that has these additional fields.
    fn fulfilled(fields: &str) -> String {
        format!(
            r#"{{"success":true,"data":{{"_id":"{ID}","ref":"order-1","status":"FULFILLED","type":"ADSL","number":"036362608",
            {fields},"num_trans":"AT-1","date_traitement":"2025-11-01T12:00:45.000Z"}}}}"#
        )
    }

    #[test]
    fn an_odd_encoding_or_notation_does_not_cost_a_field_of_the_order() {
        let plain = fulfilled(r#""card_code":"123456789012","topup_amount":1000"#);
        let utf16 = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
            std::iter::once(0xfeff).chain(plain.encode_utf16()).flat_map(unit).collect()
        };
        let gzip = |text: &str| {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(text.as_bytes()).unwrap();
            gzip.finish().unwrap()
        };
        let zlib = |text: &str| {
            let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
            zlib.write_all(text.as_bytes()).unwrap();
            zlib.finish().unwrap()
        };
        let latin1 = |text: &str| text.chars().map(|at| u8::try_from(at).unwrap()).collect::<Vec<u8>>();
        let beside = |field: &str| plain.replace(r#""num_trans""#, &format!(r#"{field},"num_trans""#));
        let text = |text: &str| text.as_bytes().to_vec();
        for (what, body) in [
            ("plain", text(&plain)),
            ("a byte order mark", text(&format!("\u{feff}{plain}"))),
            (
                "braces around it",
                text(&format!("<style>b{{}}</style>{plain}<script>var a = {{b: 1}};</script>")),
            ),
            ("a line of a log before it", text(&format!("{{\"level\":\"warn\",\"status\":1}}\n{plain}"))),
            ("UTF-16, little end first", utf16(u16::to_le_bytes)),
            ("UTF-16, big end first", utf16(u16::to_be_bytes)),
            ("gzip", gzip(&plain)),
            ("deflate", zlib(&plain)),
            ("gzip of a byte order mark", gzip(&format!("\u{feff}{plain}"))),
            ("a Latin-1 byte", latin1(&beside(r#""note":"café""#))),
            ("half a character", text(&beside(r#""note":"order \ud83d""#))),
            ("the other half", text(&beside(r#""note":"\ude00 order""#))),
            ("half a character in a name", text(&beside(r#""n\ud83dte":1"#))),
            ("a backslash before it", text(&beside(r#""note":"\\ud83d""#))),
            ("a tab", text(&beside("\"note\":\"a\tb\nc\""))),
            ("a huge number", text(&beside(r#""fee":1e999"#))),
            ("no number", text(&beside(r#""fee":NaN,"more":[-Infinity,Infinity],"NaN":"NaN""#))),
            ("deep nesting", text(&beside(&format!(r#""x":{}{}"#, "[".repeat(100), "]".repeat(100))))),
            ("a warning before it", text(&format!("<br />\n<b>Warning</b>: x in /srv/a.php\n{plain}"))),
            ("something behind it", text(&format!("{plain}\n<!-- 12 ms -->"))),
            ("a function around it", text(&format!("callback({plain});"))),
            ("the status in lower case", text(&plain.replace("FULFILLED", "fulfilled"))),
            ("spaces around the status", text(&plain.replace("FULFILLED", " Fulfilled "))),
            ("the type in lower case", text(&plain.replace("ADSL", "adsl"))),
            ("success as a text", text(&plain.replace("true", "\"true\""))),
            ("success as a number", text(&plain.replace("true", "1"))),
            ("no error", text(&plain.replace(r#""data""#, r#""error":null,"data""#))),
            ("a field twice", text(&beside(r#""card_code":"123456789012""#))),
        ] {
            let order = read_bytes(200, &HeaderMap::new(), &body);
            let order = order.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(order.status, TopupStatus::Fulfilled, "{what}");
            assert_eq!(
                (order.topup_ref.as_deref(), order.kind),
                (Some("order-1"), Some(TopupType::Adsl)),
                "{what}"
            );
            assert_eq!(
                (order.number.unwrap().reveal(), order.topup_amount),
                ("036362608", Some(1000)),
                "{what}"
            );
            let card = order.card.unwrap();
            assert_eq!(
                (card.card_code.reveal(), card.num_trans.as_deref()),
                ("123456789012", Some("AT-1")),
                "{what}"
            );
            assert_eq!(card.date_traitement.as_deref(), Some("2025-11-01T12:00:45.000Z"), "{what}");
        }
        // An answer that is cut short, or about another order, is an error.
        let cut = &gzip(&plain)[..60];
        assert!(read_bytes(200, &HeaderMap::new(), cut).is_err());
        assert!(read(200, &plain[..plain.len() - 2]).is_err());
        assert!(read(200, &plain.replace(ID, "6901616fe9e88196b4eb64b3")).is_err());
        assert!(read(200, &plain.replace(&format!("\"{ID}\""), "17")).is_err());
    }

    #[test]
    fn no_number_loses_digits() {
        for (written, code) in [
            ("98765432109876543210", Some("98765432109876543210")),
            ("123456789012345678901234567890", Some("123456789012345678901234567890")),
            ("123456789012.0", Some("123456789012")),
            ("\"0012 3456 7890\"", Some("0012 3456 7890")),
            ("1.5", None),
            ("1e20", None),
        ] {
            let order = read(200, &fulfilled(&format!(r#""card_code":{written}"#))).unwrap();
            assert_eq!(order.card.as_ref().map(|card| card.card_code.reveal()), code, "{written}");
        }
    }

    #[test]
    fn an_amount_is_read_however_it_is_written() {
        for (written, amount) in [
            ("1000", Some(1000)),
            ("1000.0", Some(1000)),
            ("1000.00", Some(1000)),
            ("\"1000\"", Some(1000)),
            ("\"1000.00\"", Some(1000)),
            ("\"1000,00\"", Some(1000)),
            ("\"1 000\"", Some(1000)),
            ("\"1\u{202f}000,00 DA\"", Some(1000)),
            ("\"1\u{a0}000 DZD\"", Some(1000)),
            ("\"1,000.00\"", Some(1000)),
            ("\"1.000,00\"", Some(1000)),
            ("\"1,000\"", Some(1000)),
            ("\"1'000\"", Some(1000)),
            ("\"12,345,678\"", Some(12_345_678)),
            ("\"1000.50\"", None),
            ("1000.5", None),
            ("\"10,00,000\"", None),
            ("\"1000 000\"", None),
            ("-5", None),
            ("\"DA\"", None),
            ("\"\"", None),
            ("99999999999999999999", None),
        ] {
            let order =
                read(200, &fulfilled(&format!(r#""card_code":"1","topup_amount":{written}"#))).unwrap();
            assert_eq!(order.topup_amount, amount, "{written}");
        }
    }

    proptest! {
        /// An unknown field with any value, or a text with invalid bytes, does not make the order unreadable.
        #[test]
        fn an_unknown_field_with_any_value_is_ignored(
            name in "[a-z]{1,8}_x",
            value in prop_oneof![
                any::<f64>().prop_map(|number| serde_json::to_string(&number).unwrap()),
                "-?[1-9][0-9]{0,400}(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,6})?",
                any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
                "\"(\\\\u[dD][89abAB][0-9a-f]{2}|\\\\[\\\\\"nt]|[a-z ])*\"",
            ],
            bytes in prop::collection::vec(any::<u8>().prop_filter("the text goes on", |byte| !b"\"\\".contains(byte)), 0..20),
        ) {
            let around = format!(r#""{name}":{value},"bytes_x":"BYTES","card_code":"123456789012","topup_amount":1000"#);
            let body = fulfilled(&around);
            let (before, after) = body.split_once("BYTES").unwrap();
            let body = [before.as_bytes(), &bytes, after.as_bytes()].concat();
            let order = read_bytes(200, &HeaderMap::new(), &body).unwrap();
            let card = order.card.unwrap();
            prop_assert_eq!(card.card_code.reveal(), "123456789012");
            prop_assert_eq!(order.topup_amount, Some(1000));
        }

        #[test]
        fn no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200), text in "[\\\\\"{}:,ud0-9a-fNI-]{0,60}") {
            drop(read_bytes(200, &HeaderMap::new(), &body));
            drop(read(200, &text));
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
    fn every_unusable_answer_is_a_typed_error() {
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
    fn a_code_a_request_id_or_a_status_that_is_unsafe_to_log_is_left_out() {
        for (code, request_id) in [("call 0661223344", "a b"), ("0661223344", "213-661-223-344"), ("", "é")]
        {
            let body =
                format!(r#"{{"success":false,"error":{{"code":"{code}"}},"requestId":"{request_id}"}}"#);
            assert_eq!(read(500, &body).unwrap_err().to_string(), "the provider failed: HTTP 500");
        }
        // An unknown status is logged, so it must be safe to log, too.
        for status in ["0661223344", "call 0661223344", ""] {
            let body = format!(r#"{{"success":true,"data":{{"status":"{status}"}}}}"#);
            assert!(matches!(read(200, &body), Err(ApiError::Unreadable { .. })), "{status}");
        }
    }

    #[test]
    fn a_503_with_retry_after_pauses_requests() {
        let closed_for = |value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            let body = br#"{"success":false,"error":{"code":"AUTH_UNAVAILABLE"}}"#;
            read_bytes(503, &headers, body).unwrap_err().closes_for()
        };
        assert_eq!(closed_for("5"), Some(Duration::from_secs(5)));
        let then = crate::clock::real_now() + Duration::from_mins(2);
        let wait = closed_for(&then.format("%a, %d %b %Y %H:%M:%S GMT").to_string()).unwrap();
        assert!(wait > Duration::from_mins(1) && wait <= Duration::from_mins(2), "{wait:?}");
        assert_eq!(closed_for("soon"), None, "a failure like any other");
    }
}
