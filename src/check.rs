//! The result of one check, which `topup-worker doctor` or a running worker makes.
//!
//! Every text is written by this program and never contains an address, the error of a library or the value of a
//! setting, since any of these may contain a password.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// `run` works, but something is wrong or may go wrong later.
    Warn,
    /// `run` would fail, or would lose orders.
    Fail,
    /// The check was not made, because another check on which it depends failed.
    Skip,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// The name of the check, the same in text and in JSON.
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    /// The finding, in one line.
    pub(crate) found: String,
    /// What the operator should do, if anything.
    pub(crate) advice: Option<String>,
}

impl Check {
    pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    pub(crate) fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    pub(crate) fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), advice: Some(advice.into()) }
    }

    pub(crate) fn skip(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Skip, found: found.into(), advice: None }
    }
}

impl Verdict {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}
