//! The findings of all checks, printed as lines for people or as JSON for programs. A finding holds only texts of this
//! program, because an address, a library's error or a setting's value could hold a password.

use std::fmt::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::super::effective::Setting;
pub(super) use crate::check::{Check, Verdict};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether no check failed.
    ok: bool,
    checks: Vec<Check>,
    settings: Vec<Setting>,
}

impl Report {
    pub(super) fn new(checks: Vec<Check>, settings: Vec<Setting>) -> Self {
        Self { ok: checks.iter().all(|check| check.verdict != Verdict::Fail), checks, settings }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.ok
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }
}

/// The lines for people, without a final line end.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
        for Check { name, verdict, found, advice } in &self.checks {
            writeln!(f, "{:<4}  {name:<width$}  {found}", verdict.word())?;
            if let Some(advice) = advice {
                writeln!(f, "      {:<width$}  → {advice}", "")?;
            }
        }
        let mut sum = String::new();
        for verdict in [Verdict::Ok, Verdict::Warn, Verdict::Fail, Verdict::Skip] {
            let count = self.count(verdict);
            if count > 0 || verdict == Verdict::Fail {
                let comma = if sum.is_empty() { "" } else { ", " };
                write!(sum, "{comma}{count} {}", verdict.word())?;
            }
        }
        if !self.settings.is_empty() {
            writeln!(f, "settings as `run` uses them, without secrets:")?;
        }
        let width = self.settings.iter().map(|setting| setting.name.len()).max().unwrap_or_default();
        for Setting { name, value, from } in &self.settings {
            writeln!(f, "      {name:<width$}  {value} ({})", from.word())?;
        }
        f.write_str(&sum)
    }
}

/// Formats a duration with a readable precision: `0.4 ms`, `12 s`, `14 min`.
pub(super) fn in_words(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 10.0 {
        format!("{millis:.1} ms")
    } else if time < Duration::from_secs(1) {
        format!("{millis:.0} ms")
    } else if time < Duration::from_mins(2) {
        format!("{} s", time.as_secs())
    } else {
        format!("{} min", time.as_secs().div_ceil(60))
    }
}

/// Formats a count with its noun: `1 worker`, `2 workers`.
pub(super) fn counted(count: u64, one: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {one}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(
            vec![
                Check::ok("redis", "answers"),
                Check::warn("redis-clock", "3 s ahead", "set the clock"),
                Check::skip("store", "not looked at"),
            ],
            Vec::new(),
        )
    }

    #[test]
    fn each_check_is_one_line_with_its_advice_below() {
        let lines = "ok    redis        answers\n\
                     warn  redis-clock  3 s ahead\n\
                     \x20                  → set the clock\n\
                     skip  store        not looked at\n\
                     1 ok, 1 warn, 0 fail, 1 skip";
        assert_eq!(report().to_string(), lines);
    }

    #[test]
    fn only_a_failed_check_makes_the_report_bad() {
        assert!(report().is_ok());
        let failed = Report::new(vec![Check::ok("a", "b"), Check::fail("c", "d", "e")], Vec::new());
        assert!(!failed.is_ok());
        let json = serde_json::to_value(failed).unwrap();
        assert_eq!(json["ok"], false);
        let check = serde_json::json!({"name": "c", "verdict": "fail", "found": "d", "advice": "e"});
        assert_eq!(json["checks"][1], check);
    }

    #[test]
    fn durations_have_a_readable_precision() {
        let words = [400, 12_000, 999_000, 12_000_000, 840_000_000].map(Duration::from_micros).map(in_words);
        assert_eq!(words, ["0.4 ms", "12 ms", "999 ms", "12 s", "14 min"]);
    }
}
