//! `Retry-After`, as RFC 9110 has it: seconds, or a date in one of its three forms.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use topup_jobs::Timestamp;

use crate::clock::real_now;

/// What is longer is cut to this: as long as the longest wait between two attempts of a notification.
const LONGEST: Duration = Duration::from_hours(24);

/// How long the other side asks to be left alone, in real time. Nothing where it does not ask, or for a
/// time that has passed.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that are no u64 are a number beyond any day.
        value.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        // By the clock of the other side, where it shows it: that is the clock the time was read from.
        let now = headers.get(DATE).and_then(|date| http_date(date.to_str().ok()?)).unwrap_or_else(real_now);
        (http_date(value)? - now).to_std().ok()?
    };
    Some(wait.min(LONGEST))
}

fn http_date(value: &str) -> Option<Timestamp> {
    httpdate::parse_http_date(value).ok().map(Timestamp::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> Option<Duration> {
        retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]))
    }

    #[test]
    fn seconds_are_honoured_and_more_than_a_day_is_cut_to_a_day() {
        assert_eq!(read("120"), Some(Duration::from_mins(2)));
        assert_eq!(read(" 86400 "), Some(LONGEST));
        assert_eq!(read("86401"), Some(Duration::from_hours(24)));
        assert_eq!(read("31536000"), Some(LONGEST));
        let next_year = real_now() + Duration::from_hours(365 * 24);
        assert_eq!(read(&next_year.format("%a, %d %b %Y %H:%M:%S GMT").to_string()), Some(LONGEST));
        assert_eq!(read("99999999999"), Some(LONGEST));
        assert_eq!(read("99999999999999999999999999"), Some(LONGEST));
    }

    #[test]
    fn each_form_of_a_date_is_understood() {
        let then = real_now() + Duration::from_hours(1);
        for form in ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"] {
            let wait = read(&then.format(form).to_string()).unwrap();
            assert!(wait > Duration::from_secs(3500) && wait <= Duration::from_hours(1), "{form}: {wait:?}");
        }
    }

    #[test]
    fn a_date_is_read_by_the_clock_of_the_other_side() {
        let form = "%a, %d %b %Y %H:%M:%S GMT";
        let theirs = real_now() - Duration::from_hours(3);
        let headers = [(DATE, theirs), (RETRY_AFTER, theirs + Duration::from_mins(2))]
            .map(|(name, date)| (name, date.format(form).to_string().parse().unwrap()));
        assert_eq!(retry_after(&HeaderMap::from_iter(headers)), Some(Duration::from_mins(2)));
    }

    #[test]
    fn what_is_no_time_to_come_asks_for_nothing() {
        for value in ["soon", "-5", "1.5", "", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
