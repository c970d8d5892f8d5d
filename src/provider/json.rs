//! Repairs and reads the JSON of the provider's answers, so that a defect in one field does not make others unreadable.
//!
//! The provider's own programs, and proxies in front of them, have sent text that no JSON reader accepts: with a byte
//! order mark, unrequested compression, a byte of another encoding, half a character, or an infinite number.
//! [`Text::read`] repairs all of these and lists them as oddities. A field keeps its JSON text until it is read, so
//! that no number loses digits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use serde_json::value::RawValue;
use topup_jobs::OddJson;

/// The repaired text of an answer, and the oddities that were repaired.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) oddities: Vec<&'static str>,
}

impl Text {
    /// Decodes and repairs a body. Decompressed text is cut off after `max_bytes`.
    pub(super) fn read(body: &[u8], max_bytes: usize) -> Self {
        let mut oddities = Vec::new();
        let body = decompressed(body, max_bytes, &mut oddities);
        let OddJson { mut text, oddities: more } = OddJson::read(&body);
        oddities.extend(more);
        if serde_json::from_str::<&RawValue>(&text).is_err()
            && let Some(inner) = envelope_within(&text)
        {
            oddities.push("there is other text around the JSON");
            text = inner.to_owned();
        }
        Self { text, oddities }
    }
}

fn decompressed<'a>(body: &'a [u8], max_bytes: usize, oddities: &mut Vec<&'static str>) -> Cow<'a, [u8]> {
    let mut whole = Vec::new();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX);
    let read = match body {
        [0x1f, 0x8b, ..] => MultiGzDecoder::new(body).take(limit).read_to_end(&mut whole),
        // zlib data begins with the byte of an `x`, with which no JSON begins.
        [b'x', 0x01 | 0x5e | 0x9c | 0xda, ..] => ZlibDecoder::new(body).take(limit).read_to_end(&mut whole),
        _ => return Cow::Borrowed(body),
    };
    if read.is_err() {
        return Cow::Borrowed(body);
    }
    oddities.push("it is compressed although the request did not accept that");
    Cow::Owned(whole)
}

/// Maximum number of opening braces that are tried as the beginning of the envelope.
const MAX_BEGINNINGS: usize = 64;

/// Finds the envelope in a text with other text around it, such as a PHP warning or a script with braces of its own.
/// Returns `None` if there are two envelopes, because it is unknown which one is the answer.
fn envelope_within(text: &str) -> Option<&str> {
    let (mut from, mut found) = (0, None);
    for _ in 0..MAX_BEGINNINGS {
        let Some(brace) = text[from..].find('{') else { return found };
        from += brace;
        let mut objects = serde_json::Deserializer::from_str(&text[from..]).into_iter::<&RawValue>();
        match objects.next() {
            Some(Ok(object)) => {
                let object = object.get();
                let is_envelope = Fields::read(object).is_some_and(|fields| fields.get("success").is_some());
                if is_envelope && found.replace(object).is_some() {
                    return None;
                }
                from += object.len();
            }
            _ => from += 1,
        }
    }
    found
}

/// The fields of an object, each with its JSON text. If a field is repeated, the last one counts, as usual in JSON.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    /// The fields of an object, or `None` if the JSON is not an object.
    pub(super) fn read(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok().map(Self)
    }

    /// The JSON of a field that is present and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.get()).filter(|json| *json != "null")
    }

    /// The fields of the object in this field.
    pub(super) fn object(&self, name: &str) -> Option<Self> {
        Self::read(self.get(name)?)
    }

    /// The JSON of each element of the array in this field.
    pub(super) fn array(&self, name: &str) -> Option<Vec<&'a str>> {
        let values: Vec<&RawValue> = serde_json::from_str(self.get(name)?).ok()?;
        Some(values.into_iter().map(RawValue::get).collect())
    }

    /// The field as a text, or `None` if it is not a text.
    pub(super) fn str(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?).ok()
    }

    /// The field as a text, if it is a non-empty text or a whole number.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let json = self.get(name)?;
        let text =
            if json.starts_with('"') { serde_json::from_str(json).ok()? } else { digits(json)?.to_owned() };
        Some(text).filter(|text| !text.trim().is_empty())
    }

    /// The field as a boolean. A boolean written as a text, and the numbers 0 and 1, are accepted, too.
    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        match self.get(name)?.trim_matches('"') {
            "1" => Some(true),
            "0" => Some(false),
            word => word.to_ascii_lowercase().parse().ok(),
        }
    }

    /// The field as a whole number. A number written as a text is accepted, too.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }
}

/// The digits of a whole number in JSON. Only zeros may follow its decimal point.
fn digits(json: &str) -> Option<&str> {
    let (whole, zeros) = json.split_once('.').unwrap_or((json, "0"));
    let are = |text: &str, digit: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(digit);
    (are(whole, u8::is_ascii_digit) && are(zeros, |digit| *digit == b'0')).then_some(whole)
}
