//! Normal forms of e-mail addresses and phone numbers, so that a search finds every way of writing them.

use topup_jobs::{Customer, Secret};

pub(super) fn email(address: &str) -> String {
    address.trim().to_lowercase()
}

/// The digits of a phone number; an Algerian number in its national form with a leading 0.
pub(super) fn phone(number: &str) -> String {
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    let international = if number.trim_start().starts_with('+') { digits.as_str() } else { "" };
    let national = digits.strip_prefix("00213").or_else(|| international.strip_prefix("213"));
    national.map_or(digits.clone(), |national| format!("0{}", national.trim_start_matches('0')))
}

/// The forms in which an order may hold this number: as typed, or as the provider writes it (`0…` landline, `213…` 4G).
pub(super) fn numbers(typed: &str) -> [String; 3] {
    let national = phone(typed);
    let bare = national.strip_prefix("213").filter(|bare| bare.len() == 9).unwrap_or(&national);
    let bare = bare.strip_prefix('0').unwrap_or(bare);
    [typed.trim().to_owned(), format!("0{bare}"), format!("213{bare}")]
}

/// Normal forms of a customer's e-mail address and phone number, in this order.
pub(super) fn of(customer: Option<&Customer>) -> (Option<String>, Option<String>) {
    let text = |field: Option<&Secret>, form: fn(&str) -> String| {
        field.map(|text| form(text.reveal())).filter(|text| !text.is_empty())
    };
    let field = |of: fn(&Customer) -> Option<&Secret>| customer.and_then(of);
    (
        text(field(|customer| customer.email.as_ref()), email),
        text(field(|customer| customer.phone.as_ref()), phone),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_spellings_of_a_number_have_one_normal_form() {
        for written in
            ["0661 22 33 44", "0661-22.33.44", "+213 661 223 344", "00213661223344", "+213 (0)661223344"]
        {
            assert_eq!(phone(written), "0661223344", "{written}");
        }
        assert_eq!(phone("+33 6 12 34 56 78"), "33612345678");
        assert_eq!(email(" Amina@Example.DZ "), "amina@example.dz");
    }

    #[test]
    fn a_search_includes_the_providers_spelling_of_a_number() {
        assert!(numbers("036 36 26 08").contains(&"036362608".to_owned()));
        for written in ["213661223344", "+213661223344", "0661223344", "661223344"] {
            assert!(numbers(written).contains(&"213661223344".to_owned()), "{written}");
        }
    }
}
