//! Repairs malformed JSON before it is parsed. Seen in practice: a byte order mark, bytes of another encoding, half a
//! character of a text that was cut, control characters, `NaN`. [`OddJson::oddities`] names the repairs without values.

use std::borrow::Cow;

/// The repaired text. If the input was JSON apart from the repaired errors, the text parses.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct OddJson {
    /// The text after the repair.
    pub text: String,
    /// What was repaired, in words.
    pub oddities: Vec<&'static str>,
}

impl OddJson {
    /// Decodes and repairs these bytes.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let mut oddities = Vec::new();
        let text = put_right(&decoded(bytes, &mut oddities), &mut oddities);
        Self { text, oddities }
    }
}

/// Decodes UTF-8, or UTF-16 with a byte order mark. A byte that is not valid UTF-8 is read as Latin-1.
fn decoded<'a>(body: &'a [u8], oddities: &mut Vec<&'static str>) -> Cow<'a, str> {
    let unit: Option<fn([u8; 2]) -> u16> = match body {
        [0xff, 0xfe, ..] => Some(u16::from_le_bytes),
        [0xfe, 0xff, ..] => Some(u16::from_be_bytes),
        _ => None,
    };
    if let Some(unit) = unit {
        oddities.push("it is UTF-16");
        let units: Vec<u16> = body[2..].chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        return Cow::Owned(String::from_utf16_lossy(&units));
    }
    let body = match body.strip_prefix(b"\xef\xbb\xbf") {
        Some(rest) => {
            oddities.push("it begins with a byte order mark");
            rest
        }
        None => body,
    };
    if let Ok(text) = std::str::from_utf8(body) {
        return Cow::Borrowed(text);
    }
    oddities.push("it is not UTF-8");
    let mut text = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| char::from(*byte)));
    }
    Cow::Owned(text)
}

/// Replaces what no JSON parser accepts: control characters, lone surrogates, `NaN` and infinite numbers.
fn put_right(text: &str, oddities: &mut Vec<&'static str>) -> String {
    let (mut right, mut rest, mut in_text) = (String::with_capacity(text.len()), text, false);
    while let Some(next) = rest.chars().next() {
        let mut taken = next.len_utf8();
        match next {
            '"' => {
                in_text = !in_text;
                right.push(next);
            }
            '\\' if in_text => {
                taken = escape(rest, &mut right, oddities);
            }
            '\0'..' ' => {
                if in_text {
                    note(oddities, "a text contains a control character");
                }
                right.push(' ');
            }
            'N' | 'I' | '-' if !in_text && let Some(word) = no_number(rest) => {
                note(oddities, "a number is NaN or infinite");
                right.push_str("null");
                taken = word.len();
            }
            _ => right.push(next),
        }
        rest = &rest[taken..];
    }
    right
}

/// Copies the escape sequence at the beginning of `text` and returns its length. A lone surrogate becomes U+FFFD.
fn escape(text: &str, right: &mut String, oddities: &mut Vec<&'static str>) -> usize {
    let unit = |text: &str| {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
    };
    let length = match unit(text) {
        Some(0xd800..0xdc00) if matches!(text.get(6..).and_then(unit), Some(0xdc00..0xe000)) => 12,
        Some(0xd800..0xe000) => {
            note(oddities, "a text contains half a character");
            right.push_str("\\ufffd");
            return 6;
        }
        Some(_) => 6,
        // Any other escape: the backslash and the character after it.
        None => 1 + text[1..].chars().next().map_or(0, char::len_utf8),
    };
    right.push_str(&text[..length]);
    length
}

/// The word for NaN or an infinite number at the beginning of this text.
fn no_number(text: &str) -> Option<&'static str> {
    ["NaN", "-Infinity", "Infinity"].into_iter().find(|word| text.starts_with(word))
}

fn note(oddities: &mut Vec<&'static str>, oddity: &'static str) {
    if !oddities.contains(&oddity) {
        oddities.push(oddity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Vec<&'static str>) {
        let OddJson { text, oddities } = OddJson::read(text.as_bytes());
        (text, oddities)
    }

    #[test]
    fn valid_json_stays_unchanged() {
        for text in [
            r#"{"a":"b","c":[1,-2.5e3,null,true]}"#,
            r#""\u00e9\ud83d\ude00\\ud83d\"x""#,
            r#"["NaN","-Infinity"]"#,
            "",
        ] {
            assert_eq!(read(text), (text.to_owned(), vec![]));
        }
    }

    #[test]
    fn lone_surrogates_are_replaced_and_pairs_are_kept() {
        for (odd, right) in [
            (r#""a\ud83d""#, r#""a\ufffd""#),
            (r#""\ude00b""#, r#""\ufffdb""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""\uD83Dé""#, r#""\ufffdé""#),
        ] {
            assert_eq!(read(odd), (right.to_owned(), vec!["a text contains half a character"]), "{odd}");
        }
        // An invalid escape stays; the JSON parser reports it.
        for broken in [r#""\ud83"#, r#""\u+83d""#, "\"\\"] {
            assert_eq!(read(broken).0, broken);
        }
    }
}
