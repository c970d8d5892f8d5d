//! The JSON of the provider's answers, read as it is found: a field that is needed is not lost for what surrounds it.
//!
//! The provider's own programs, and proxies before it, have been seen to send what no JSON reader accepts: a byte order
//! mark, compression that was not asked for, a byte of another encoding, half a character, a number without end. All of
//! that is put right here before the text is read, and [`Text::oddities`] tells what it was. A field is kept as the text that
//! stands in the answer until it is asked for, so that no number loses digits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::{MultiGzDecoder, ZlibDecoder};
use serde_json::value::RawValue;
use topup_jobs::OddJson;

/// The text of an answer, and what was odd about it.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) oddities: Vec<&'static str>,
}

impl Text {
    /// The text of this body. Compressed text is cut after so many bytes.
    pub(super) fn read(body: &[u8], max_bytes: usize) -> Self {
        let mut oddities = Vec::new();
        let body = decompressed(body, max_bytes, &mut oddities);
        let OddJson { mut text, oddities: more } = OddJson::read(&body);
        oddities.extend(more);
        if serde_json::from_str::<&RawValue>(&text).is_err()
            && let Some(inner) = envelope_within(&text)
        {
            oddities.push("something stands around the JSON");
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
        // No JSON begins with this letter.
        [b'x', 0x01 | 0x5e | 0x9c | 0xda, ..] => ZlibDecoder::new(body).take(limit).read_to_end(&mut whole),
        _ => return Cow::Borrowed(body),
    };
    if read.is_err() {
        return Cow::Borrowed(body);
    }
    oddities.push("it is compressed, which was not asked for");
    Cow::Owned(whole)
}

/// Most beginnings of an object that are tried.
const MAX_BEGINNINGS: usize = 64;

/// The one envelope within a text: a warning of the provider's program, or a proxy's, may stand around it, with braces of
/// its own. Of two it is not known which counts.
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

/// The fields of an object, each as it stands in the answer. Of a field that is there twice the last one counts, as for
/// every other reader of this API.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    /// The fields of this JSON, if it is an object.
    pub(super) fn read(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok().map(Self)
    }

    /// A field that is there and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(|value| value.get()).filter(|json| *json != "null")
    }

    /// The fields of an object in this field.
    pub(super) fn object(&self, name: &str) -> Option<Self> {
        Self::read(self.get(name)?)
    }

    /// The values of an array in this field, each as it stands there.
    pub(super) fn array(&self, name: &str) -> Option<Vec<&'a str>> {
        let values: Vec<&RawValue> = serde_json::from_str(self.get(name)?).ok()?;
        Some(values.into_iter().map(RawValue::get).collect())
    }

    /// A text; nothing where it is anything else.
    pub(super) fn str(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?).ok()
    }

    /// A text that is not empty, or a whole number with all its digits; nothing where it is anything else.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let json = self.get(name)?;
        let text =
            if json.starts_with('"') { serde_json::from_str(json).ok()? } else { digits(json)?.to_owned() };
        Some(text).filter(|text| !text.trim().is_empty())
    }

    /// True or false, also as a text or a number.
    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        match self.get(name)?.trim_matches('"') {
            "1" => Some(true),
            "0" => Some(false),
            word => word.to_ascii_lowercase().parse().ok(),
        }
    }

    /// A whole number, also as a text.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }
}

/// The digits of a whole number in JSON. What stands behind its point must be zeros.
fn digits(json: &str) -> Option<&str> {
    let (whole, zeros) = json.split_once('.').unwrap_or((json, "0"));
    let are = |text: &str, digit: fn(&u8) -> bool| !text.is_empty() && text.as_bytes().iter().all(digit);
    (are(whole, u8::is_ascii_digit) && are(zeros, |digit| *digit == b'0')).then_some(whole)
}
