//! One thing that was looked at, and what was found: by `topup-worker doctor`, and by a worker that runs.
//!
//! A text in here is written by this program: no address, no error of a library and no value of a setting is ever passed
//! through, since any of them may hold a password.

use serde::Serialize;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// As it should be.
    Ok,
    /// `run` works, and something may go wrong later or is not as it should be.
    Warn,
    /// `run` would not work, or would lose what it promises to keep.
    Fail,
    /// Not looked at, because another check stands in the way.
    Skip,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was looked at; the same word in both printings.
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    /// What was found, in one line.
    pub(crate) found: String,
    /// What to do, where there is something to do.
    pub(crate) advice: Option<String>,
}

impl Check {
    /// As it should be.
    pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    /// The operator should look at it.
    pub(crate) fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    /// The operator must change something.
    pub(crate) fn fail(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), advice: Some(advice.into()) }
    }

    /// Not looked at.
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
