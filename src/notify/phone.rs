//! A customer's phone number in the formats that SMS gateways require.
//!
//! Producers send the number as typed: with spaces, dashes, `(0)`, Arabic digits or copied directional marks. A number
//! without country code belongs to the shop's country.

use phonenumber::country::Id;
use phonenumber::{Mode, PhoneNumber};
use serde::Serialize;

use crate::digits::western_digit;

/// A number in every format: the template variables `phone`, `phone_e164`, `phone_digits` and `phone_national`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Phone {
    /// The number as the producer sent it.
    phone: String,
    #[serde(flatten)]
    known: Option<Known>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Known {
    /// `+213661223344`
    #[serde(rename = "phone_e164")]
    e164: String,
    /// `213661223344`
    #[serde(rename = "phone_digits")]
    digits: String,
    /// `0661223344`
    #[serde(rename = "phone_national")]
    national: String,
}

impl Phone {
    /// Parses a number; `country` applies to numbers without country code.
    pub(super) fn read(given: &str, country: Id) -> Self {
        let known = phonenumber::parse(Some(country), plain(given)).ok().filter(PhoneNumber::is_valid);
        Self { phone: given.to_owned(), known: known.as_ref().map(Known::of) }
    }

    /// Replaces `phone` and keeps the other formats.
    pub(super) fn given_as(self, given: &str) -> Self {
        Self { phone: given.to_owned(), ..self }
    }

    /// Whether the number is valid, so that all formats are known.
    pub(super) const fn is_known(&self) -> bool {
        self.known.is_some()
    }
}

impl Known {
    fn of(number: &PhoneNumber) -> Self {
        // The formatted number may end with an extension, which begins with a letter, `;` or `#` and is dropped.
        let digits = |text: String| -> String {
            let number = text.chars().take_while(|at| !at.is_alphabetic() && !";#".contains(*at));
            number.filter(char::is_ascii_digit).collect()
        };
        let written = |mode| number.format().mode(mode).to_string();
        let e164 = written(Mode::E164);
        Self { digits: digits(e164.clone()), national: digits(written(Mode::National)), e164 }
    }
}

/// Normalises a number to ASCII, without invisible marks, and without the `(0)` of an international number.
fn plain(given: &str) -> String {
    let western: String = given
        .chars()
        .filter_map(|at| match at {
            '\u{ff0b}' => Some('+'),
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => None,
            at if at.is_whitespace() => Some(' '),
            at => Some(western_digit(at).unwrap_or(at)),
        })
        .collect();
    let western = western.trim();
    if western.starts_with('+') || western.starts_with("00") {
        return western.replacen("(0)", "", 1);
    }
    western.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_parsed_in_every_notation() {
        for given in [
            "0661223344",
            "+213661223344",
            "00213661223344",
            "213661223344",
            "661223344",
            "+213 (0) 661 22 33 44",
            "+2130661223344",
            "0661-22-33-44",
            "06.61.22.33.44",
            "٠٦٦١٢٢٣٣٤٤",
            "\u{202a}+213661223344\u{202c}",
            "\u{200e}0661\u{a0}22\u{202f}33 44 ",
            "tel:+213661223344",
            "0661223344 x2",
            "0661223344 #2",
            "0661223344;ext=5",
        ] {
            let known = Phone::read(given, Id::DZ).known.unwrap_or_else(|| panic!("{given}"));
            assert_eq!(known.e164, "+213661223344", "{given}");
            assert_eq!(known.digits, "213661223344", "{given}");
            assert_eq!(known.national, "0661223344", "{given}");
        }
        let abroad = Phone::read("+33 6 12 34 56 78", Id::DZ).known.unwrap();
        assert_eq!((abroad.digits.as_str(), abroad.national.as_str()), ("33612345678", "0612345678"));
        assert_eq!(Phone::read("06 12 34 56 78", Id::FR).known.unwrap().e164, "+33612345678");
    }

    #[test]
    fn an_invalid_number_keeps_its_text_and_has_no_formats() {
        for given in ["", "none", "12", "06612233", "0661223344 or 0550112233", "amina@example.dz"] {
            let phone = Phone::read(given, Id::DZ);
            assert_eq!((phone.phone.as_str(), phone.is_known()), (given, false), "{given}");
        }
    }
}
