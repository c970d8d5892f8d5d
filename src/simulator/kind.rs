//! The kinds of internet subscription, and which numbers each has.
//!
//! Rules of the provider's documentation, written down here a second time on purpose: the simulator must not
//! borrow them from the worker it is there to test.

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
    /// Reads the provider's word.
    pub(super) fn parse(word: &str) -> Option<Self> {
        match word {
            "ADSL" => Some(Self::Adsl),
            "4G" => Some(Self::FourG),
            _ => None,
        }
    }

    /// Whether `number` is one of this kind.
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
    fn numbers_must_fit_their_kind() {
        assert!(Kind::Adsl.accepts("036362608") && Kind::FourG.accepts("213555123456"));
        for bad in ["36362608", "0363626081", "03636260a", "213555123456", "٠36362608"] {
            assert!(!Kind::Adsl.accepts(bad), "{bad}");
        }
        assert!(!Kind::FourG.accepts("036362608"));
    }
}
