//! The contract with producers: validates an inbox message field by field.
//!
//! A message may come from a program in any language, so every field is checked. A message is rejected only if it is
//! too large, its order cannot be tracked, or a correction names nothing. Otherwise odd fields are repaired or ignored,
//! and a remark tells the producer what to send. Remarks name fields and types, but never a value, because a value may
//! be a phone number.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::{
    Backoff, BackoffType, Customer, Instruction, InstructionKind, JobName, Locale, OddJson, RetryPolicy,
    Secret, TopupId, TrackTopup,
};

/// Largest size of all fields of a message together, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// Largest size of `metadata` as JSON, in bytes.
pub const MAX_METADATA_BYTES: usize = 4 * 1024;
/// Longest accepted delay, a year. A longer one is a mistake of the producer, usually a wrong unit.
const MAX_DELAY_MS: u64 = 365 * 24 * 3_600 * 1_000;
const MAX_TEXT_CHARS: usize = 256;
/// Longest accepted `callbackUrl`, a length that every browser and server accepts.
const MAX_URL_CHARS: usize = 2048;
const MAX_ATTEMPTS: u64 = 100;

/// The optional field `opts` of a message, in the form that Bull uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Opts {
    /// Wait before the first check, in milliseconds; at most a year.
    #[serde(default)]
    pub delay: u64,
    /// Attempts of a failing recheck of this order, including the first; 1 to 100.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// Wait between those attempts.
    #[serde(default)]
    pub backoff: Option<Backoff>,
    /// Accepted because Bull has it, and ignored: the `topupId` identifies the job of an order.
    #[serde(default)]
    pub job_id: Option<String>,
    /// Ask the provider even if the order is already final.
    #[serde(default)]
    pub force: bool,
}

/// A valid message.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// `PollTopup` or `RecheckTopup`; `PollTopup` for an instruction.
    pub job: JobName,
    /// The order, with an instruction if the message is about a known order.
    pub order: TrackTopup,
    /// Wait before the first check, in domain time.
    pub delay: Duration,
    /// Fields that were ignored or changed, in words for the producer and without any value of the message.
    pub remarks: Vec<String>,
}

/// Why a message is rejected, in words for the producer and without any value of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejection(String);

fn reject<T>(reason: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection(reason.into()))
}

/// Validates the fields of one inbox message. The order is paid, so a message is rejected only if its order cannot be
/// tracked. An odd field is otherwise repaired if its meaning is clear, or else ignored with a remark.
///
/// # Errors
/// [`Rejection`] names what is wrong and what the producer should send instead.
pub fn accept(fields: &[(&[u8], &[u8])]) -> Result<Accepted, Rejection> {
    accept_size(fields.iter().map(|(name, value)| name.len() + value.len()).sum())?;
    let field =
        |wanted: &str| fields.iter().find(|(name, _)| *name == wanted.as_bytes()).map(|(_, value)| *value);
    let (job, instruction) = name(field("name"))?;
    let Some(data) = field("data") else {
        return reject("the field \"data\" is missing; send a JSON object with at least \"topupId\"");
    };
    let mut reader = Reader::default();
    let data = reader.data(data)?;
    let topup_id = topup_id(&data)?;
    if let Some(kind) = instruction {
        let order = reader.instructed(&data, topup_id, kind)?;
        return Ok(Accepted { job, order, delay: Duration::ZERO, remarks: reader.remarks });
    }
    let opts = reader.opts(field("opts").unwrap_or_default());
    let order = reader.order(&data, topup_id, &opts);
    Ok(Accepted { job, order, delay: Duration::from_millis(opts.delay), remarks: reader.remarks })
}

/// Checks the size of a message: the bytes of its field names and values together.
///
/// # Errors
/// [`Rejection`] if the message is too large.
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
    let name = std::str::from_utf8(name).unwrap_or_default().trim();
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

fn topup_id(data: &Map<String, Value>) -> Result<TopupId, Rejection> {
    match present(data, "topupId") {
        None => {
            reject("\"data.topupId\" is missing; send the topupId from the answer to POST /internet/send")
        }
        Some(Value::String(text)) => {
            text.trim().parse().map_err(|error| Rejection(format!("\"data.topupId\": {error}")))
        }
        Some(other) => reject(format!("\"data.topupId\" is {}; send a text", kind(other))),
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("is not JSON (at line {}, column {})", error.line(), error.column()))
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

/// A field of the object; JSON `null` counts as absent.
fn present<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

/// The value as an object. An empty text or array counts as an empty object; PHP encodes an empty object as an array.
fn object(value: &Value) -> Option<Cow<'_, Map<String, Value>>> {
    match value {
        Value::Object(object) => Some(Cow::Borrowed(object)),
        Value::Array(values) if values.is_empty() => Some(Cow::default()),
        Value::String(text) if text.trim().is_empty() => Some(Cow::default()),
        _ => None,
    }
}

/// The value as a whole number, written as `5000`, `5000.0` or `"5000"`.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| {
            let number = number.as_f64().filter(|number| number.fract() == 0.0)?;
            // A float from 2^53 on may differ from the number in the message, so such a float is not accepted.
            format!("{number:.0}").parse().ok().filter(|number| *number < 1 << 53)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[derive(Default)]
struct Reader {
    remarks: Vec<String>,
}

impl Reader {
    fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.push(remark.into());
    }

    fn data(&mut self, raw: &[u8]) -> Result<Map<String, Value>, Rejection> {
        let OddJson { text, oddities } = OddJson::read(raw);
        for oddity in oddities {
            self.remark(format!("the field \"data\": {oddity}"));
        }
        let mut value = json(&text).or_else(|why| self.readable_fields(&text).ok_or(why));
        // Some producers encode the object twice, as a JSON text that holds the JSON of the object.
        if let Ok(Value::String(inner)) = &value
            && let Ok(inner @ Value::Object(_)) = json(inner)
        {
            value = Ok(inner);
        }
        match value {
            Ok(Value::Object(data)) => Ok(data),
            Ok(other) => reject(format!("the field \"data\" is {}; send a JSON object", kind(&other))),
            Err(why) => reject(format!("the field \"data\" {why}; send a JSON object")),
        }
    }

    /// Parses each field on its own, so that a field out of range or too deeply nested does not spoil the other fields.
    fn readable_fields(&mut self, text: &str) -> Option<Value> {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
        let mut readable = Map::new();
        for (name, raw) in fields {
            if let Ok(value) = serde_json::from_str(raw.get()) {
                readable.insert(name, value);
            } else {
                self.remark(match name.as_str() {
                    "topupRef" | "customer" | "metadata" | "callbackUrl" => {
                        format!("\"data.{name}\" cannot be read and was left out")
                    }
                    _ => "an unknown field of \"data\" cannot be read".to_owned(),
                });
            }
        }
        Some(Value::Object(readable))
    }

    /// The order in a message about a known order. Only `correct-topup` uses fields other than the id.
    fn instructed(
        &mut self,
        data: &Map<String, Value>,
        topup_id: TopupId,
        kind: InstructionKind,
    ) -> Result<TrackTopup, Rejection> {
        let mut order = TrackTopup::new(topup_id.clone());
        let mut instruction = Instruction::new(kind);
        if kind == InstructionKind::Correct {
            order = TrackTopup { topup_ref: None, ..self.order(data, topup_id, &Opts::default()) };
            // An empty text removes the callback URL.
            if present(data, "callbackUrl")
                .is_some_and(|url| url.as_str().is_some_and(|url| url.trim().is_empty()))
            {
                order.callback_url = Some(Secret::new(""));
            }
            if let Some(Value::Object(customer)) = present(data, "customer") {
                instruction.locale = present(customer, "locale").and_then(locale);
                let names = ["name", "email", "phone"].iter().any(|key| present(customer, key).is_some());
                if !names && instruction.locale.is_none() {
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

    fn order(&mut self, data: &Map<String, Value>, topup_id: TopupId, opts: &Opts) -> TrackTopup {
        let retry = (opts.attempts.is_some() || opts.backoff.is_some()).then(|| {
            let default = RetryPolicy::default();
            RetryPolicy {
                attempts: opts.attempts.unwrap_or(default.attempts),
                backoff: opts.backoff.unwrap_or(default.backoff),
            }
        });
        let callback_url = self.text(data, "data.callbackUrl", "callbackUrl", MAX_URL_CHARS);
        TrackTopup {
            topup_ref: self.text(data, "data.topupRef", "topupRef", MAX_TEXT_CHARS),
            customer: self.customer(data),
            metadata: self.metadata(data),
            callback_url: callback_url.filter(|url| !url.trim().is_empty()).map(Secret::new),
            retry,
            force: opts.force,
            ..TrackTopup::new(topup_id)
        }
    }

    fn customer(&mut self, data: &Map<String, Value>) -> Option<Customer> {
        let value = present(data, "customer")?;
        let Some(customer) = object(value) else {
            self.remark(format!("\"data.customer\" is {} and was left out; send an object", kind(value)));
            return None;
        };
        if customer.is_empty() && !value.is_object() {
            return None;
        }
        let locale = present(&customer, "locale").filter(|value| value.as_str() != Some(""));
        let known = locale.and_then(self::locale);
        if locale.is_some() && known.is_none() {
            self.remark("\"data.customer.locale\" is none of \"fr\", \"ar\" and \"en\", and was left out");
        }
        Some(Customer {
            name: self.customers_name(&customer).map(Secret::new),
            email: self.text(&customer, "data.customer.email", "email", MAX_TEXT_CHARS).map(Secret::new),
            phone: self.text(&customer, "data.customer.phone", "phone", MAX_TEXT_CHARS).map(Secret::new),
            locale: known.unwrap_or_default(),
        })
    }

    /// The customer's name. A name that is too long is cut and not ignored, because the customer still recognises it.
    fn customers_name(&mut self, customer: &Map<String, Value>) -> Option<String> {
        let mut name = self.text(customer, "data.customer.name", "name", usize::MAX)?;
        if let Some((end, _)) = name.char_indices().nth(MAX_TEXT_CHARS) {
            name.truncate(end);
            self.remark(format!("\"data.customer.name\" was cut after {MAX_TEXT_CHARS} characters"));
        }
        Some(name)
    }

    fn metadata(&mut self, data: &Map<String, Value>) -> Option<Map<String, Value>> {
        let value = present(data, "metadata")?;
        let Some(metadata) = object(value) else {
            self.remark(format!("\"data.metadata\" is {} and was left out; send an object", kind(value)));
            return None;
        };
        let bytes = value.to_string().len();
        if bytes > MAX_METADATA_BYTES {
            self.remark(format!(
                "\"data.metadata\" has {bytes} bytes and was left out; at most {MAX_METADATA_BYTES} are taken"
            ));
            return None;
        }
        Some(metadata.into_owned())
    }

    fn opts(&mut self, raw: &[u8]) -> Opts {
        let OddJson { text, .. } = OddJson::read(raw);
        if text.trim().is_empty() || text.trim() == "null" {
            return Opts::default();
        }
        let value = json(&text);
        let why = match &value {
            Ok(value) => format!("is {}", kind(value)),
            Err(why) => why.clone(),
        };
        let Some(opts) = value.as_ref().ok().and_then(object) else {
            self.remark(format!("the field \"opts\" {why} and was left out; send a JSON object"));
            return Opts::default();
        };
        let attempts = self.whole(&opts, "opts.attempts", "attempts", 1..=MAX_ATTEMPTS);
        Opts {
            delay: self.whole(&opts, "opts.delay", "delay", 0..=MAX_DELAY_MS).unwrap_or(0),
            attempts: attempts.and_then(|attempts| u32::try_from(attempts).ok()),
            backoff: present(&opts, "backoff").and_then(|value| self.backoff(value)),
            job_id: present(&opts, "jobId").and_then(Value::as_str).map(str::to_owned),
            force: self.force(&opts),
        }
    }

    fn force(&mut self, opts: &Map<String, Value>) -> bool {
        let Some(value) = present(opts, "force") else { return false };
        let word = value.as_str().map_or_else(|| value.to_string(), |text| text.trim().to_ascii_lowercase());
        match word.as_str() {
            "true" | "1" => true,
            "false" | "0" | "" => false,
            _ => {
                self.remark(format!(
                    "\"opts.force\" is {} and was left out; send true or false",
                    kind(value)
                ));
                false
            }
        }
    }

    /// Reads the backoff. As in Bull, a bare number is a fixed backoff.
    fn backoff(&mut self, value: &Value) -> Option<Backoff> {
        if let Value::Object(backoff) = value {
            let Some(kind) = present(backoff, "type").and_then(backoff_type) else {
                self.remark("\"opts.backoff.type\" is neither \"fixed\" nor \"exponential\"; the backoff was left out");
                return None;
            };
            // An unreadable delay becomes the default and not 0, because 0 would repeat the recheck at once.
            let default = RetryPolicy::default().backoff.delay;
            let delay = self.whole(backoff, "opts.backoff.delay", "delay", 0..=MAX_DELAY_MS);
            let unread = present(backoff, "delay").is_some() && delay.is_none();
            return Some(Backoff { kind, delay: delay.unwrap_or(if unread { default } else { 0 }) });
        }
        if let Some(kind) = backoff_type(value) {
            return Some(Backoff { kind, delay: RetryPolicy::default().backoff.delay });
        }
        let delay = whole(value).filter(|delay| *delay <= MAX_DELAY_MS);
        if delay.is_none() {
            self.remark("\"opts.backoff\" was left out; send {\"type\": …, \"delay\": …}, or milliseconds");
        }
        delay.map(|delay| Backoff { kind: BackoffType::Fixed, delay })
    }

    /// The field `key` as a text of at most `most_chars` characters. A whole number counts as a text.
    fn text(
        &mut self,
        object: &Map<String, Value>,
        path: &str,
        key: &str,
        most_chars: usize,
    ) -> Option<String> {
        let text = match present(object, key)? {
            Value::String(text) => text.clone(),
            Value::Number(number) if number.is_u64() || number.is_i64() => number.to_string(),
            other => {
                self.remark(format!("\"{path}\" is {} and was left out; send a text", kind(other)));
                return None;
            }
        };
        if text.chars().count() > most_chars {
            self.remark(format!("\"{path}\" is longer than {most_chars} characters and was left out"));
            return None;
        }
        Some(text)
    }

    fn whole(
        &mut self,
        object: &Map<String, Value>,
        path: &str,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let value = present(object, key)?;
        let number = whole(value).filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = range.into_inner();
            self.remark(format!("\"{path}\" is not a whole number from {least} to {most}, and was left out"));
        }
        number
    }
}

fn backoff_type(value: &Value) -> Option<BackoffType> {
    match value.as_str()?.trim().to_ascii_lowercase().as_str() {
        "fixed" => Some(BackoffType::Fixed),
        "exponential" => Some(BackoffType::Exponential),
        _ => None,
    }
}

/// The language of a locale such as `fr`, `AR`, `fr-DZ` or `ar_DZ`.
fn locale(value: &Value) -> Option<Locale> {
    let language = value.as_str()?.trim().split(['-', '_', '.']).next()?.to_ascii_lowercase();
    match language.as_str() {
        "fr" => Some(Locale::Fr),
        "ar" => Some(Locale::Ar),
        "en" => Some(Locale::En),
        _ => None,
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
    fn every_field_of_the_contract_is_read() {
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
    fn a_message_that_cannot_be_tracked_is_rejected_with_a_reason() {
        let data = format!(r#"{{"topupId":"{ID}"}}"#);
        let huge = "x".repeat(1 << 20);
        for (name, data, word) in [
            ("pol-topup", data.as_str(), "neither \"poll-topup\""),
            ("notify-customer", &data, "neither \"poll-topup\""),
            ("poll-topup", "topupId=1", "not JSON"),
            ("poll-topup", "[]", "an array; send a JSON object"),
            ("poll-topup", "\"text\"", "a text; send a JSON object"),
            ("poll-topup", "{}", "\"data.topupId\" is missing"),
            ("poll-topup", r#"{"topupId":7}"#, "a number; send a text"),
            ("poll-topup", r#"{"topupId":"7"}"#, "24 hexadecimal digits"),
            ("poll-topup", &huge, "at most 16384"),
        ] {
            let reason = message(name, data, None).unwrap_err().to_string();
            assert!(reason.contains(word), "{reason:?} should say {word:?}");
        }
        let binary: [(&[u8], &[u8]); 2] = [(b"name", b"poll-topup"), (b"data", b"\xff\xfe\x00")];
        assert!(accept(&binary).unwrap_err().to_string().contains("not JSON"));
        assert!(accept(&[]).unwrap_err().to_string().contains("\"name\" is missing"));
    }

    fn with(fields: &str) -> (TrackTopup, Vec<String>) {
        let Accepted { order, remarks, .. } =
            message("poll-topup", &format!(r#"{{"topupId":"{ID}",{fields}}}"#), None).unwrap();
        (order, remarks)
    }

    fn with_opts(opts: &str) -> (Accepted, Vec<String>) {
        let accepted = message("poll-topup", &format!(r#"{{"topupId":"{ID}"}}"#), Some(opts)).unwrap();
        let remarks = accepted.remarks.clone();
        (accepted, remarks)
    }

    #[test]
    fn an_odd_field_whose_meaning_is_clear_is_taken() {
        let plain = TrackTopup::new(ID.parse().unwrap());
        for nothing in [
            r#""metadata":null"#,
            r#""customer":[]"#,
            r#""customer":"""#,
            r#""callbackUrl":"""#,
            r#""callbackUrl":" ","topupRef":null"#,
        ] {
            assert_eq!(with(nothing), (plain.clone(), vec![]), "{nothing}");
        }
        assert_eq!(with(r#""metadata":[]"#).0.metadata, Some(Map::new()));
        let (order, remarks) = with(r#""topupRef":1042,"customer":{"phone":213661223344,"name":7}"#);
        let customer = order.customer.unwrap();
        assert_eq!(order.topup_ref.as_deref(), Some("1042"));
        assert_eq!(
            (customer.phone, customer.name),
            (Some(Secret::new("213661223344")), Some(Secret::new("7")))
        );
        assert_eq!(remarks, Vec::<String>::new());
        for (written, locale) in [
            ("fr-FR", Locale::Fr),
            ("AR", Locale::Ar),
            ("ar_DZ.UTF-8", Locale::Ar),
            (" En ", Locale::En),
            ("", Locale::default()),
        ] {
            let (order, remarks) = with(&format!(r#""customer":{{"locale":"{written}"}}"#));
            assert_eq!((order.customer.unwrap().locale, remarks), (locale, vec![]), "{written}");
        }
        for nothing in
            ["[]", "", " ", "null", "{}", r#"{"jobId":42}"#, r#"{"jobId":[1]}"#, r#"{"force":"false"}"#]
        {
            let (accepted, remarks) = with_opts(nothing);
            assert_eq!(
                (accepted.order, accepted.delay, remarks),
                (plain.clone(), Duration::ZERO, vec![]),
                "{nothing}"
            );
        }
        for delay in ["5000.0", "\"5000\"", "5e3"] {
            let (accepted, remarks) = with_opts(&format!(r#"{{"delay":{delay}}}"#));
            assert_eq!((accepted.delay.as_secs(), remarks), (5, vec![]), "{delay}");
        }
        for (backoff, kind, delay) in [
            ("5000", BackoffType::Fixed, 5000),
            ("\"5000\"", BackoffType::Fixed, 5000),
            ("\"exponential\"", BackoffType::Exponential, 3_600_000),
            (r#"{"type":"Fixed","delay":"10"}"#, BackoffType::Fixed, 10),
        ] {
            let (accepted, remarks) = with_opts(&format!(r#"{{"attempts":"3","backoff":{backoff}}}"#));
            let retry = RetryPolicy { attempts: 3, backoff: Backoff { kind, delay } };
            assert_eq!((accepted.order.retry, remarks), (Some(retry), vec![]), "{backoff}");
        }
        for force in ["1", "\"true\"", "true"] {
            assert!(with_opts(&format!(r#"{{"force":{force}}}"#)).0.order.force, "{force}");
        }
        let data = format!(r#"{{"topupId":" {} "}}"#, ID.to_uppercase());
        let twice = serde_json::to_string(&data).unwrap();
        for data in [data.as_str(), &twice, &format!("\u{feff}{data}")] {
            assert_eq!(message(" poll-topup", data, None).unwrap().order, plain, "{data}");
        }
    }

    #[test]
    fn an_odd_field_whose_meaning_is_unclear_is_left_out_with_a_remark() {
        let long = "x".repeat(5_000);
        for (fields, remark) in [
            (r#""topupRef":{"id":1}"#.to_owned(), "\"data.topupRef\" is an object and was left out"),
            (
                r#""topupRef":98765432109876543210"#.to_owned(),
                "\"data.topupRef\" is a number and was left out",
            ),
            (format!(r#""topupRef":"{long}""#), "\"data.topupRef\" is longer than 256 characters"),
            (
                format!(r#""metadata":{{"x":"{long}"}}"#),
                "\"data.metadata\" has 5008 bytes and was left out; at most 4096",
            ),
            (r#""metadata":"x""#.to_owned(), "\"data.metadata\" is a text and was left out; send an object"),
            (
                r#""customer":"Amina""#.to_owned(),
                "\"data.customer\" is a text and was left out; send an object",
            ),
            (
                format!(r#""callbackUrl":"https://shop.dz/{long}""#),
                "\"data.callbackUrl\" is longer than 2048 characters",
            ),
        ] {
            let (order, remarks) = with(&fields);
            assert_eq!(order, TrackTopup::new(ID.parse().unwrap()), "{fields:.40}");
            assert!(remarks.len() == 1 && remarks[0].contains(remark), "{remarks:?} should say {remark:?}");
        }
        let deep = format!(r#""customer":{}{}"#, "[".repeat(1000), "]".repeat(1000));
        for (field, remark) in [
            (r#""metadata":{"n":1e999}"#, "\"data.metadata\" cannot be read and was left out"),
            (r#""note":1e999"#, "an unknown field of \"data\" cannot be read"),
            (&deep, "\"data.customer\" cannot be read and was left out"),
        ] {
            let (order, remarks) = with(&format!(r#"{field},"topupRef":"r-1""#));
            assert_eq!(
                (order.topup_ref.as_deref(), remarks),
                (Some("r-1"), vec![remark.to_owned()]),
                "{field:.40}"
            );
        }
        let (order, remarks) = with(r#""customer":{"locale":"kab","phone":[6],"name":"Amina \ud83d"}"#);
        let customer = order.customer.unwrap();
        assert_eq!((customer.locale, customer.phone), (Locale::default(), None));
        assert_eq!(customer.name, Some(Secret::new("Amina \u{fffd}")));
        for remark in [
            "the field \"data\": a text contains half a character",
            "\"data.customer.locale\" is none of \"fr\", \"ar\" and \"en\", and was left out",
            "\"data.customer.phone\" is an array and was left out; send a text",
        ] {
            assert!(remarks.iter().any(|known| known == remark), "{remarks:?} should say {remark:?}");
        }
        let (order, remarks) = with(&format!(r#""customer":{{"name":"{long}","email":"{long}"}}"#));
        let customer = order.customer.unwrap();
        assert_eq!((customer.name.unwrap().reveal().len(), customer.email, remarks.len()), (256, None, 2));
        for (opts, remark) in [
            ("nope", "the field \"opts\" is not JSON (at line 1, column 2) and was left out"),
            ("[1]", "the field \"opts\" is an array and was left out"),
            (r#"{"delay":-1}"#, "\"opts.delay\" is not a whole number from 0 to 31536000000"),
            (r#"{"delay":1.5}"#, "\"opts.delay\" is not a whole number"),
            (r#"{"attempts":0}"#, "\"opts.attempts\" is not a whole number from 1 to 100"),
            (r#"{"backoff":{"type":"linear"}}"#, "\"opts.backoff.type\" is neither"),
            (r#"{"backoff":true}"#, "\"opts.backoff\" was left out"),
            (r#"{"force":"yes!"}"#, "\"opts.force\" is a text and was left out"),
        ] {
            let (accepted, remarks) = with_opts(opts);
            assert_eq!(accepted.order, TrackTopup::new(ID.parse().unwrap()), "{opts}");
            assert_eq!(accepted.delay, Duration::ZERO, "{opts}");
            assert!(remarks.len() == 1 && remarks[0].contains(remark), "{remarks:?} should say {remark:?}");
        }
    }

    #[test]
    fn a_message_about_a_known_order_carries_an_instruction() {
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
    fn remarks_and_reasons_never_repeat_a_value() {
        let odd = r#""topupRef":[661223344],"metadata":661223344,"callbackUrl":{"a":661223344},
            "customer":{"phone":[661223344],"locale":"0661223344"}"#;
        let opts = r#"{"delay":"0661223344x","attempts":661223344,"backoff":"x661223344","force":661223344}"#;
        let data = format!(r#"{{"topupId":"{ID}",{odd}}}"#);
        let remarks = message("poll-topup", &data, Some(opts)).unwrap().remarks;
        assert_eq!(remarks.len(), 9, "{remarks:?}");
        assert!(remarks.iter().all(|remark| !remark.contains("661223344")), "{remarks:?}");
        let reason = message("poll-topup", r#"{"topupId":"0661223344"}"#, None).unwrap_err().to_string();
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
