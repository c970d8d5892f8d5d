//! The producers' contract: a message of the inbox, checked field by field.
//!
//! A message comes from a program in any language, so nothing about it is taken for granted. What
//! cannot be accepted is refused in words that tell the producer what to do. The words name fields
//! and types, never values: a value may be a phone number.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    Backoff, BackoffType, Customer, Instruction, InstructionKind, JobName, Locale, RetryPolicy, Secret,
    TopupId, TrackTopup,
};

/// The fields of a message together: 16 KiB at most.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// `metadata` as JSON: 4 KiB at most.
pub const MAX_METADATA_BYTES: usize = 4 * 1024;
/// A delay beyond a year is taken for a mistake, most often of units.
const MAX_DELAY_MS: u64 = 365 * 24 * 3_600 * 1_000;
const MAX_TEXT_CHARS: usize = 256;
/// What every browser and server takes.
const MAX_URL_CHARS: usize = 2048;
const MAX_ATTEMPTS: u64 = 100;

/// The optional field `opts` of a message, in Bull's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Opts {
    /// Wait before the first look, in milliseconds; at most a year.
    #[serde(default)]
    pub delay: u64,
    /// Attempts of a failing recheck of this order, the first included; 1 to 100.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// Wait between those attempts.
    #[serde(default)]
    pub backoff: Option<Backoff>,
    /// Accepted for Bull's sake: an order is one job whatever its id, so `topupId` is what counts.
    #[serde(default)]
    pub job_id: Option<String>,
    /// Ask the provider even though the order is already final.
    #[serde(default)]
    pub force: bool,
}

/// A message that can be worked on.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// `PollTopup` or `RecheckTopup`; `PollTopup` for an instruction.
    pub job: JobName,
    /// The order, with an instruction where the message is about an order that is known.
    pub order: TrackTopup,
    /// Wait before the first look, in domain time.
    pub delay: Duration,
}

/// Why a message is refused, in words for its producer and without any of its values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejection(String);

fn reject<T>(reason: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection(reason.into()))
}

/// Checks the fields of one message of the inbox.
///
/// # Errors
/// [`Rejection`] says what is wrong and what the producer is to send instead.
pub fn accept(fields: &[(&[u8], &[u8])]) -> Result<Accepted, Rejection> {
    accept_size(fields.iter().map(|(name, value)| name.len() + value.len()).sum())?;
    let field =
        |wanted: &str| fields.iter().find(|(name, _)| *name == wanted.as_bytes()).map(|(_, value)| *value);
    let (job, instruction) = name(field("name"))?;
    let Some(data) = field("data") else {
        return reject("the field \"data\" is missing; send a JSON object with at least \"topupId\"");
    };
    let data = json_object("data", data)?;
    if let Some(kind) = instruction {
        let order = instructed(&data, kind)?;
        return Ok(Accepted { job, order, delay: Duration::ZERO });
    }
    let opts = match field("opts") {
        Some(raw) => opts(&json_object("opts", raw)?)?,
        None => Opts::default(),
    };
    let order = order(&data, &opts)?;
    Ok(Accepted { job, order, delay: Duration::from_millis(opts.delay) })
}

/// Checks the size of a message, the bytes of its names and values together.
///
/// # Errors
/// [`Rejection`] where it is too large.
pub fn accept_size(bytes: usize) -> Result<(), Rejection> {
    if bytes > MAX_MESSAGE_BYTES {
        return reject(format!("the message has {bytes} bytes; at most {MAX_MESSAGE_BYTES} are accepted"));
    }
    Ok(())
}

fn name(name: Option<&[u8]>) -> Result<(JobName, Option<InstructionKind>), Rejection> {
    let Some(name) = name else {
        return reject("the field \"name\" is missing; send \"poll-topup\" or \"recheck-topup\"");
    };
    let name = std::str::from_utf8(name).unwrap_or_default();
    if let Some(kind) = InstructionKind::of_message(name) {
        return Ok((JobName::PollTopup, Some(kind)));
    }
    match name.parse() {
        Ok(job @ (JobName::PollTopup | JobName::RecheckTopup)) => Ok((job, None)),
        _ => reject(
            "the field \"name\" is neither \"poll-topup\" nor \"recheck-topup\", nor, for an order that is known, \
             \"check-topup\", \"correct-topup\" or \"cancel-topup\"",
        ),
    }
}

/// The order of a message about an order that is known. Only a correction says more than which order it is.
fn instructed(data: &Map<String, Value>, kind: InstructionKind) -> Result<TrackTopup, Rejection> {
    let mut order = TrackTopup::new(topup_id(data)?);
    let mut instruction = Instruction::new(kind);
    if kind == InstructionKind::Correct {
        order = self::order(data, &Opts::default())?;
        order.topup_ref = None;
        if let Some(Value::Object(customer)) = present(data, "customer") {
            instruction.locale = locale(customer)?;
            if !["name", "email", "phone", "locale"].iter().any(|key| present(customer, key).is_some()) {
                order.customer = None;
            }
        }
        if !order.names_details() {
            return reject(
                "\"data\" names nothing to correct; send \"customer\" with the fields that change, \"metadata\" or \
                 \"callbackUrl\"",
            );
        }
    }
    Ok(TrackTopup { instruction: Some(instruction), ..order })
}

fn json_object(field: &str, raw: &[u8]) -> Result<Map<String, Value>, Rejection> {
    match serde_json::from_slice(raw) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => reject(format!("the field \"{field}\" is {}; send a JSON object", kind(&other))),
        Err(error) => reject(format!(
            "the field \"{field}\" is not JSON (at line {}, column {}); send a JSON object",
            error.line(),
            error.column()
        )),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn topup_id(data: &Map<String, Value>) -> Result<TopupId, Rejection> {
    let Some(topup_id) = text(data, "data.topupId", "topupId")? else {
        return reject(
            "\"data.topupId\" is missing; send the topupId from the answer to POST /internet/send",
        );
    };
    TopupId::try_from(topup_id).map_err(|error| Rejection(format!("\"data.topupId\": {error}")))
}

fn order(data: &Map<String, Value>, opts: &Opts) -> Result<TrackTopup, Rejection> {
    let retry = (opts.attempts.is_some() || opts.backoff.is_some()).then(|| {
        let default = RetryPolicy::default();
        RetryPolicy {
            attempts: opts.attempts.unwrap_or(default.attempts),
            backoff: opts.backoff.unwrap_or(default.backoff),
        }
    });
    Ok(TrackTopup {
        topup_ref: text(data, "data.topupRef", "topupRef")?,
        customer: present(data, "customer").map(customer).transpose()?,
        metadata: present(data, "metadata").map(metadata).transpose()?,
        callback_url: text_up_to(MAX_URL_CHARS, data, "data.callbackUrl", "callbackUrl")?.map(Secret::new),
        retry,
        force: opts.force,
        ..TrackTopup::new(topup_id(data)?)
    })
}

fn customer(value: &Value) -> Result<Customer, Rejection> {
    let Value::Object(customer) = value else {
        return reject(format!("\"data.customer\" is {}; send an object", kind(value)));
    };
    let secret = |path, key| text(customer, path, key).map(|text| text.map(Secret::new));
    let locale = locale(customer)?.unwrap_or_default();
    Ok(Customer {
        name: secret("data.customer.name", "name")?,
        email: secret("data.customer.email", "email")?,
        phone: secret("data.customer.phone", "phone")?,
        locale,
    })
}

fn locale(customer: &Map<String, Value>) -> Result<Option<Locale>, Rejection> {
    match text(customer, "data.customer.locale", "locale")?.as_deref() {
        None => Ok(None),
        Some("fr") => Ok(Some(Locale::Fr)),
        Some("ar") => Ok(Some(Locale::Ar)),
        Some("en") => Ok(Some(Locale::En)),
        Some(_) => reject("\"data.customer.locale\" is none of \"fr\", \"ar\" and \"en\""),
    }
}

fn metadata(value: &Value) -> Result<Map<String, Value>, Rejection> {
    let Value::Object(metadata) = value else {
        return reject(format!("\"data.metadata\" is {}; send an object", kind(value)));
    };
    let bytes = value.to_string().len();
    if bytes > MAX_METADATA_BYTES {
        return reject(format!(
            "\"data.metadata\" has {bytes} bytes; at most {MAX_METADATA_BYTES} are accepted"
        ));
    }
    Ok(metadata.clone())
}

fn opts(opts: &Map<String, Value>) -> Result<Opts, Rejection> {
    let attempts = match whole(opts, "opts.attempts", "attempts", MAX_ATTEMPTS)? {
        Some(0) => return reject("\"opts.attempts\" is 0; send 1 or more"),
        // Invariant: `whole` has bounded it by MAX_ATTEMPTS.
        attempts => attempts.map(|attempts| u32::try_from(attempts).unwrap_or(u32::MAX)),
    };
    let force = match present(opts, "force") {
        None => false,
        Some(Value::Bool(force)) => *force,
        Some(other) => return reject(format!("\"opts.force\" is {}; send true or false", kind(other))),
    };
    Ok(Opts {
        delay: whole(opts, "opts.delay", "delay", MAX_DELAY_MS)?.unwrap_or(0),
        attempts,
        backoff: present(opts, "backoff").map(backoff).transpose()?,
        job_id: text(opts, "opts.jobId", "jobId")?,
        force,
    })
}

/// Bull takes a bare number for a fixed backoff, and so does this.
fn backoff(value: &Value) -> Result<Backoff, Rejection> {
    let Value::Object(backoff) = value else {
        let bare = Map::from_iter([("delay".to_owned(), value.clone())]);
        let delay = whole(&bare, "opts.backoff", "delay", MAX_DELAY_MS)?.unwrap_or(0);
        return Ok(Backoff { kind: BackoffType::Fixed, delay });
    };
    let kind = match text(backoff, "opts.backoff.type", "type")?.as_deref() {
        Some("fixed") => BackoffType::Fixed,
        Some("exponential") => BackoffType::Exponential,
        _ => return reject("\"opts.backoff.type\" is neither \"fixed\" nor \"exponential\""),
    };
    let delay = whole(backoff, "opts.backoff.delay", "delay", MAX_DELAY_MS)?.unwrap_or(0);
    Ok(Backoff { kind, delay })
}

/// A field that is there; JSON `null` counts as absent.
fn present<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

fn text(object: &Map<String, Value>, path: &str, key: &str) -> Result<Option<String>, Rejection> {
    text_up_to(MAX_TEXT_CHARS, object, path, key)
}

fn text_up_to(
    most_chars: usize,
    object: &Map<String, Value>,
    path: &str,
    key: &str,
) -> Result<Option<String>, Rejection> {
    match present(object, key) {
        None => Ok(None),
        Some(Value::String(text)) if text.chars().count() <= most_chars => Ok(Some(text.clone())),
        Some(Value::String(_)) => reject(format!("\"{path}\" is longer than {most_chars} characters")),
        Some(other) => reject(format!("\"{path}\" is {}; send a text", kind(other))),
    }
}

fn whole(object: &Map<String, Value>, path: &str, key: &str, max: u64) -> Result<Option<u64>, Rejection> {
    let Some(value) = present(object, key) else { return Ok(None) };
    match value.as_u64() {
        Some(number) if number <= max => Ok(Some(number)),
        _ => reject(format!("\"{path}\" is not a whole number from 0 to {max}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "6901616fe9e88196b4eb64b2";

    fn message(name: &str, data: &str, opts: Option<&str>) -> Result<Accepted, Rejection> {
        let mut fields = vec![("name", name), ("data", data)];
        fields.extend(opts.map(|opts| ("opts", opts)));
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        accept(&fields)
    }

    #[test]
    fn the_shortest_message_is_enough() {
        let accepted = message("poll-topup", &format!(r#"{{"topupId":"{ID}"}}"#), None).unwrap();
        assert_eq!(accepted.job, JobName::PollTopup);
        assert_eq!(accepted.order, TrackTopup::new(ID.parse().unwrap()));
        assert_eq!(accepted.delay, Duration::ZERO);
    }

    #[test]
    fn everything_a_producer_may_say_is_taken_over() {
        let data = format!(
            r#"{{"topupId":"{ID}","topupRef":"order-1","customer":{{"name":"A","email":"a@b.dz","phone":"06","locale":"ar"}},
                "metadata":{{"cart":[1,2]}},"callbackUrl":"https://shop.dz/t","unknown":true,"extra":null}}"#
        );
        let opts =
            r#"{"delay":1500,"attempts":5,"backoff":{"type":"fixed","delay":10},"jobId":"x","force":true}"#;
        let accepted = message("recheck-topup", &data, Some(opts)).unwrap();
        assert_eq!(accepted.job, JobName::RecheckTopup);
        assert_eq!(accepted.delay, Duration::from_millis(1500));
        assert!(accepted.order.force);
        assert_eq!(
            accepted.order.retry,
            Some(RetryPolicy { attempts: 5, backoff: Backoff { kind: BackoffType::Fixed, delay: 10 } })
        );
        assert_eq!(accepted.order.customer.unwrap().locale, Locale::Ar);
        assert_eq!(accepted.order.metadata.unwrap()["cart"][1], 2);
        assert_eq!(accepted.order.callback_url, Some(Secret::new("https://shop.dz/t")));
    }

    #[test]
    fn each_mistake_is_named_in_words() {
        let data = format!(r#"{{"topupId":"{ID}"}}"#);
        let long = format!(r#"{{"topupId":"{ID}","metadata":{{"x":"{}"}}}}"#, "x".repeat(5_000));
        let far = format!(r#"{{"topupId":"{ID}","callbackUrl":"https://shop.dz/{}"}}"#, "x".repeat(2_048));
        let huge = "x".repeat(1 << 20);
        for (name, data, opts, word) in [
            ("pol-topup", data.as_str(), None, "neither \"poll-topup\""),
            ("notify-customer", &data, None, "neither \"poll-topup\""),
            ("poll-topup", "topupId=1", None, "not JSON"),
            ("poll-topup", "[]", None, "an array; send a JSON object"),
            ("poll-topup", "{}", None, "\"data.topupId\" is missing"),
            ("poll-topup", r#"{"topupId":7}"#, None, "a number; send a text"),
            ("poll-topup", r#"{"topupId":"7"}"#, None, "24 hexadecimal digits"),
            ("poll-topup", &long, None, "at most 4096"),
            ("poll-topup", &far, None, "\"data.callbackUrl\" is longer than 2048 characters"),
            ("poll-topup", &huge, None, "at most 16384"),
            ("poll-topup", &data, Some(r#"{"delay":-1}"#), "\"opts.delay\" is not a whole number"),
            ("poll-topup", &data, Some(r#"{"delay":"5"}"#), "\"opts.delay\" is not a whole number"),
            ("poll-topup", &data, Some(r#"{"attempts":0}"#), "send 1 or more"),
            ("poll-topup", &data, Some(r#"{"backoff":{"type":"linear"}}"#), "neither \"fixed\""),
            ("poll-topup", &data, Some(r#"{"force":"yes"}"#), "send true or false"),
            ("poll-topup", &data, Some("nope"), "\"opts\" is not JSON"),
        ] {
            let reason = message(name, data, opts).unwrap_err().to_string();
            assert!(reason.contains(word), "{reason:?} should say {word:?}");
        }
        let binary: [(&[u8], &[u8]); 2] = [(b"name", b"poll-topup"), (b"data", b"\xff\xfe\x00")];
        assert!(accept(&binary).unwrap_err().to_string().contains("not JSON"));
        assert!(accept(&[]).unwrap_err().to_string().contains("\"name\" is missing"));
    }

    #[test]
    fn a_message_about_a_known_order_says_what_is_to_be_done() {
        let data = format!(r#"{{"topupId":"{ID}","customer":{{"email":"a@b.dz"}}}}"#);
        for (name, kind) in [
            ("check-topup", InstructionKind::Check),
            ("correct-topup", InstructionKind::Correct),
            ("cancel-topup", InstructionKind::Cancel),
        ] {
            let accepted = message(name, &data, None).unwrap();
            assert_eq!((accepted.job, accepted.delay), (JobName::PollTopup, Duration::ZERO));
            assert_eq!(accepted.order.instruction, Some(Instruction::new(kind)));
            assert_eq!(accepted.order.customer.is_some(), kind == InstructionKind::Correct, "{name}");
        }
        let data = format!(r#"{{"topupId":"{ID}","customer":{{"locale":"ar"}}}}"#);
        let order = message("correct-topup", &data, None).unwrap().order;
        assert_eq!(order.instruction.unwrap().locale, Some(Locale::Ar));
        for nothing in ["{}", r#"{"customer":{}}"#, r#"{"customer":{"email":null},"topupRef":"r"}"#] {
            let data = nothing.replacen('{', &format!(r#"{{"topupId":"{ID}","x":1,"#), 1).replace(",}", "}");
            let reason = message("correct-topup", &data, None).unwrap_err().to_string();
            assert!(reason.contains("names nothing to correct"), "{data}: {reason}");
        }
    }

    #[test]
    fn a_reason_never_repeats_a_value() {
        let data = format!(r#"{{"topupId":"{ID}","customer":{{"phone":661223344,"locale":"0661223344"}}}}"#);
        let reason = message("poll-topup", &data, None).unwrap_err().to_string();
        assert!(!reason.contains("661223344"), "{reason}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_accepted_or_refused_without_panic(
            fields in proptest::collection::vec((".{0,8}", proptest::collection::vec(any::<u8>(), 0..64)), 0..5),
            data in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut all: Vec<(&[u8], &[u8])> = vec![(b"name", b"poll-topup"), (b"data", &data)];
            all.extend(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())));
            let _ = accept(&all);
        }
    }
}
