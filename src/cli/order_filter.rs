//! The flags with which `orders` and `check` select stored orders.

use chrono::{NaiveDate, TimeDelta};
use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use topup_jobs::{OrderStatus, Secret, Timestamp};

use crate::clock::real_now;
use crate::config::SettingsError;
use crate::orders::Search;

#[derive(Debug, Args)]
pub(super) struct OrderFilter {
    /// The merchant's reference
    #[arg(long)]
    reference: Option<String>,

    /// The topped-up number, in any notation
    #[arg(long)]
    number: Option<SecretString>,

    /// The customer's phone number, in any notation
    #[arg(long)]
    phone: Option<SecretString>,

    /// The customer's e-mail address
    #[arg(long)]
    email: Option<SecretString>,

    /// Statuses, separated by commas: HANDLING, SCHEDULED (QUEUED at the provider), DELAYED, FULFILLED, REFUNDED
    #[arg(long, value_delimiter = ',', value_parser = status)]
    status: Vec<OrderStatus>,

    /// Only orders given up, or with a notification given up, for a reason that begins with REASON (default: any)
    #[arg(long, value_name = "REASON", num_args = 0..=1, default_missing_value = "")]
    dead_letter: Option<String>,

    /// Only orders with a notification that was refused, failed at every attempt, or had no channel
    #[arg(long)]
    undelivered: bool,

    /// Only orders whose tracking `stop` has ended
    #[arg(long)]
    cancelled: bool,

    /// Only orders tracked since this time: 2026-11-29, 2026-11-29T14:00:00Z, or an age such as 90m, 12h or 7d
    #[arg(long, value_parser = moment)]
    since: Option<Timestamp>,

    /// Only orders tracked before this time, written as for --since
    #[arg(long, value_parser = moment)]
    until: Option<Timestamp>,
}

impl OrderFilter {
    pub(super) fn is_empty(&self) -> bool {
        let texts =
            self.reference.is_none() && self.number.is_none() && self.phone.is_none() && self.email.is_none();
        let states =
            self.status.is_empty() && self.dead_letter.is_none() && !self.undelivered && !self.cancelled;
        texts && states && self.since.is_none() && self.until.is_none()
    }

    /// Converts the flags into a search. Returns an error if a number has no digit.
    pub(super) fn search(&self) -> Result<Search, SettingsError> {
        let secret =
            |text: &Option<SecretString>| text.as_ref().map(|text| Secret::new(text.expose_secret()));
        for (name, number) in [("--number", &self.number), ("--phone", &self.phone)] {
            let no_digit =
                |text: &SecretString| !text.expose_secret().contains(|at: char| at.is_ascii_digit());
            if number.as_ref().is_some_and(no_digit) {
                return Err(SettingsError::Unusable { name, why: "it holds no digit".to_owned() });
            }
        }
        Ok(Search {
            reference: self.reference.clone(),
            number: secret(&self.number),
            phone: secret(&self.phone),
            email: secret(&self.email),
            statuses: self.status.clone(),
            dead_letter: self.dead_letter.clone(),
            undelivered: self.undelivered,
            cancelled: self.cancelled,
            since: self.since,
            until: self.until,
        })
    }
}

fn status(word: &str) -> Result<OrderStatus, String> {
    let word = word.trim().to_ascii_uppercase();
    // QUEUED is the provider's name for the status that is stored as SCHEDULED.
    let stored = if word == "QUEUED" { "SCHEDULED" } else { word.as_str() };
    let known = OrderStatus::ALL.map(OrderStatus::as_str).join(", ");
    stored.parse().map_err(|_| format!("it is none of {known}"))
}

fn moment(word: &str) -> Result<Timestamp, String> {
    let day = || word.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0).map(|at| at.and_utc());
    let at = word.parse().ok().or_else(day).or_else(|| Some(real_now() - age(word)?));
    at.ok_or_else(|| {
        "it must be a day (2026-11-29), a time (2026-11-29T14:00:00Z) or an age (90m, 12h, 7d)".to_owned()
    })
}

/// Parses an age: `90m`, `12h` or `7d`.
fn age(word: &str) -> Option<TimeDelta> {
    let unit = word.chars().next_back().filter(char::is_ascii)?;
    let number: i64 = word[..word.len() - 1].parse().ok().filter(|number| (0..100_000).contains(number))?;
    match unit {
        'm' => TimeDelta::try_minutes(number),
        'h' => TimeDelta::try_hours(number),
        'd' => TimeDelta::try_days(number),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_day_a_moment_or_an_age() {
        assert_eq!(moment("2026-11-29").unwrap().to_rfc3339(), "2026-11-29T00:00:00+00:00");
        assert_eq!(moment("2026-11-29T14:00:00+01:00").unwrap().to_rfc3339(), "2026-11-29T13:00:00+00:00");
        let at = moment("36h").unwrap();
        assert_eq!((real_now() - at).num_hours(), 36);
        for wrong in ["", "h", "-3d", "yesterday", "29/11/2026", "9999999d", "3é"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_status_may_have_the_name_that_the_provider_uses() {
        assert_eq!(status("queued"), Ok(OrderStatus::Scheduled));
        assert_eq!(status(" DELAYED"), Ok(OrderStatus::Delayed));
        assert!(status("LOST").unwrap_err().contains("REFUNDED"));
    }
}
