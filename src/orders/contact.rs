//! A customer's address and number in the one form in which they are searched for, however they were written.

use topup_jobs::{Customer, Secret};

/// An e-mail address in lower case.
pub(super) fn email(address: &str) -> String {
    address.trim().to_lowercase()
}

/// The digits of a phone number, an Algerian one as it is dialled inside the country.
pub(super) fn phone(number: &str) -> String {
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    let international = if number.trim_start().starts_with('+') { digits.as_str() } else { "" };
    let national = digits.strip_prefix("00213").or_else(|| international.strip_prefix("213"));
    national.map_or(digits.clone(), |national| format!("0{}", national.trim_start_matches('0')))
}

/// The forms in which the provider may write the number that was searched for: as it was typed, `0…` for a landline and
/// `213…` for 4G.
pub(super) fn numbers(typed: &str) -> [String; 3] {
    let national = phone(typed);
    let bare = national.strip_prefix("213").filter(|bare| bare.len() == 9).unwrap_or(&national);
    let bare = bare.strip_prefix('0').unwrap_or(bare);
    [typed.trim().to_owned(), format!("0{bare}"), format!("213{bare}")]
}

/// E-mail address and phone number of a customer, as they are searched for.
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
    fn however_a_number_is_written_it_is_found() {
        for written in
            ["0661 22 33 44", "0661-22.33.44", "+213 661 223 344", "00213661223344", "+213 (0)661223344"]
        {
            assert_eq!(phone(written), "0661223344", "{written}");
        }
        assert_eq!(phone("+33 6 12 34 56 78"), "33612345678");
        assert_eq!(email(" Amina@Example.DZ "), "amina@example.dz");
    }

    #[test]
    fn the_number_of_an_order_is_looked_for_as_the_provider_writes_it() {
        assert!(numbers("036 36 26 08").contains(&"036362608".to_owned()));
        for written in ["213661223344", "+213661223344", "0661223344", "661223344"] {
            assert!(numbers(written).contains(&"213661223344".to_owned()), "{written}");
        }
    }
}
