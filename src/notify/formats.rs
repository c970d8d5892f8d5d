//! Formats amounts and times for customers in Algeria. Arabic follows CLDR's `ar-DZ`: Western digits, a point as
//! thousands separator, and Algerian names of the months.

use chrono::{Datelike, TimeDelta, Timelike};
use topup_jobs::{Locale, Timestamp};

const MONTHS_FR: [&str; 12] = [
    "janvier",
    "février",
    "mars",
    "avril",
    "mai",
    "juin",
    "juillet",
    "août",
    "septembre",
    "octobre",
    "novembre",
    "décembre",
];
const MONTHS_AR: [&str; 12] = [
    "جانفي",
    "فيفري",
    "مارس",
    "أفريل",
    "ماي",
    "جوان",
    "جويلية",
    "أوت",
    "سبتمبر",
    "أكتوبر",
    "نوفمبر",
    "ديسمبر",
];
const MONTHS_EN: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// Narrow no-break space, which separates thousands in French.
const NARROW_SPACE: char = '\u{202f}';
/// No-break space, which separates a number from its currency.
const SPACE: char = '\u{a0}';

/// Formats an amount in dinars: `1 000 DA`, `1.000 دج`, `DZD 1,000`.
pub(super) fn amount(dinars: i64, locale: Locale) -> String {
    match locale {
        Locale::Fr => format!("{}{SPACE}DA", grouped(dinars, NARROW_SPACE)),
        Locale::Ar => format!("{}{SPACE}دج", grouped(dinars, '.')),
        Locale::En => format!("DZD{SPACE}{}", grouped(dinars, ',')),
    }
}

/// Formats a time for the time zone of Algeria, which is UTC+1 all year.
pub(super) fn moment(at: Timestamp, locale: Locale) -> String {
    let at = at.naive_utc() + TimeDelta::hours(1);
    let (day, month, year) = (at.day(), at.month0() as usize, at.year());
    let clock = format!("{:02}:{:02}", at.hour(), at.minute());
    match locale {
        Locale::Fr => {
            let day = if day == 1 { "1er".to_owned() } else { day.to_string() };
            format!("{day} {} {year} à {clock}", MONTHS_FR[month])
        }
        Locale::Ar => format!("{day} {} {year} على الساعة {clock}", MONTHS_AR[month]),
        Locale::En => format!("{day} {} {year} at {clock}", MONTHS_EN[month]),
    }
}

/// Puts a text on one line, for a mail header or an SMS: whitespace and control characters become single spaces.
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

fn grouped(number: i64, separator: char) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(separator);
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_written_as_the_language_does() {
        assert_eq!(amount(1000, Locale::Fr), "1\u{202f}000\u{a0}DA");
        assert_eq!(amount(1_234_567, Locale::Ar), "1.234.567\u{a0}دج");
        assert_eq!(amount(12_000, Locale::En), "DZD\u{a0}12,000");
        assert_eq!(amount(500, Locale::Fr), "500\u{a0}DA");
        assert_eq!(amount(-1000, Locale::En), "DZD\u{a0}-1,000");
        assert_eq!(amount(0, Locale::En), "DZD\u{a0}0");
    }

    #[test]
    fn one_line_has_no_line_end_and_no_control_character() {
        let text = " Amina\r\nBcc: x@y.dz\u{2028}\u{0}1\u{202f}000\u{a0}DA\t";
        assert_eq!(one_line(text), "Amina Bcc: x@y.dz 1 000 DA");
    }

    #[test]
    fn a_moment_is_in_algerias_time_in_summer_too() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let winter = at("2025-10-31T23:30:00Z");
        assert_eq!(moment(winter, Locale::Fr), "1er novembre 2025 à 00:30");
        assert_eq!(moment(winter, Locale::Ar), "1 نوفمبر 2025 على الساعة 00:30");
        assert_eq!(moment(winter, Locale::En), "1 November 2025 at 00:30");
        let summer = at("2026-08-14T09:05:59Z");
        assert_eq!(moment(summer, Locale::Fr), "14 août 2026 à 10:05");
        assert_eq!(moment(summer, Locale::Ar), "14 أوت 2026 على الساعة 10:05");
    }
}
