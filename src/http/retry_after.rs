//! `Retry-After` of RFC 9110: seconds, or a date in one of three formats.

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use topup_jobs::Timestamp;

use crate::clock::real_now;

/// Upper limit of the result: the longest wait between two attempts of a notification.
const LONGEST: Duration = Duration::from_hours(24);

/// The wait that the server asks for, not scaled. `None` if the header is missing, invalid or a date in the past.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that overflows u64 is longer than the limit.
        value.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        // The server computed the date with its own clock, so the wait starts at the `Date` header of the same answer.
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
    fn seconds_are_honoured_up_to_a_day() {
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
    fn every_date_format_is_parsed() {
        let then = real_now() + Duration::from_hours(1);
        for form in ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"] {
            let wait = read(&then.format(form).to_string()).unwrap();
            assert!(wait > Duration::from_secs(3500) && wait <= Duration::from_hours(1), "{form}: {wait:?}");
        }
    }

    #[test]
    fn a_date_is_relative_to_the_clock_of_the_server() {
        let form = "%a, %d %b %Y %H:%M:%S GMT";
        let theirs = real_now() - Duration::from_hours(3);
        let headers = [(DATE, theirs), (RETRY_AFTER, theirs + Duration::from_mins(2))]
            .map(|(name, date)| (name, date.format(form).to_string().parse().unwrap()));
        assert_eq!(retry_after(&HeaderMap::from_iter(headers)), Some(Duration::from_mins(2)));
    }

    #[test]
    fn invalid_values_and_past_dates_are_ignored() {
        for value in ["soon", "-5", "1.5", "", "Sun, 06 Nov 1994 08:49:37 GMT"] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
