//! The kinds of internet subscription and the form of their phone numbers.
//!
//! The provider's rules are repeated here on purpose: the simulator must not take them from the worker it tests.

use serde::Serialize;

/// The two kinds of internet subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Kind {
    /// A landline: `0` and eight digits.
    #[serde(rename = "ADSL")]
    Adsl,
    /// A 4G box: `213` and nine digits.
    #[serde(rename = "4G")]
    FourG,
}

impl Kind {
    /// Parses the `type` of a send request.
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "ADSL" => Some(Self::Adsl),
            "4G" => Some(Self::FourG),
            _ => None,
        }
    }

    /// Whether `number` has the form of this kind.
    pub(super) fn accepts(self, number: &str) -> bool {
        let (prefix, digits) = match self {
            Self::Adsl => ("0", 8),
            Self::FourG => ("213", 9),
        };
        number
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.len() == digits && rest.bytes().all(|byte| byte.is_ascii_digit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_must_have_the_form_of_their_kind() {
        assert!(Kind::Adsl.accepts("036362608") && Kind::FourG.accepts("213555123456"));
        for bad in ["36362608", "0363626081", "03636260a", "213555123456", "٠36362608"] {
            assert!(!Kind::Adsl.accepts(bad), "{bad}");
        }
        assert!(!Kind::FourG.accepts("036362608"));
    }
}
