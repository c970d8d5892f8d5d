//! `GET /v3/internet/list`: reads the query and selects a page of the orders.
//!
//! Pages start at 1 and hold at most 100 rows, newest order first. `from` and `to` must be given together and are
//! inclusive. The default form is that in the provider's reference. The reference of mobile top-ups differs, so a
//! client must handle both. Rows show the true state: scripted faults apply to checks and must not show here.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use serde::Serialize;

use super::clock::SimClock;
use super::envelope::{ApiError, MetaPagination};
use super::orders::{OrderView, Orders};
use super::settings::{ListCard, ListForm, SimulatorSettings};

const LARGEST_PAGE: usize = 100;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListQuery {
    page: usize,
    page_size: usize,
    range: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// A list answer. `pagination` is set only if the form has the pagination in the envelope and not beside the rows.
pub(super) struct ListAnswer {
    pub(super) data: ListData,
    pub(super) pagination: Option<MetaPagination>,
}

#[derive(Serialize)]
pub(super) struct ListData {
    #[serde(skip_serializing_if = "Option::is_none")]
    topups: Option<Vec<OrderView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<OrderView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pagination: Option<Pagination>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pagination {
    page: usize,
    page_size: usize,
    total_pages: usize,
    total_results: usize,
}

impl ListQuery {
    /// Reads the parameters; unknown ones are ignored.
    pub(super) fn parse(params: &HashMap<String, String>) -> Result<Self, ApiError> {
        let number = |name: &str, default: usize, largest: usize| match params.get(name) {
            None => Ok(default),
            Some(text) => {
                text.parse().ok().filter(|number| (1..=largest).contains(number)).ok_or_else(|| {
                    ApiError::validation(name, &format!("{name} must be a number from 1 to {largest}"))
                })
            }
        };
        let date = |name: &str, text: &str, end_of_day: bool| {
            parse_date(text, end_of_day)
                .ok_or_else(|| ApiError::validation(name, &format!("{name} must be a date")))
        };
        let range = match (params.get("from"), params.get("to")) {
            (None, None) => None,
            (Some(from), Some(to)) => Some((date("from", from, false)?, date("to", to, true)?)),
            (Some(_), None) => return Err(ApiError::validation("to", "from and to must be given together")),
            (None, Some(_)) => {
                return Err(ApiError::validation("from", "from and to must be given together"));
            }
        };
        Ok(Self {
            page: number("page", 1, usize::MAX)?,
            page_size: number("pageSize", 20, LARGEST_PAGE)?,
            range,
        })
    }

    /// The requested page of the orders at domain time `now`.
    pub(super) fn page(
        &self,
        orders: &Orders,
        now: Duration,
        clock: &SimClock,
        settings: &SimulatorSettings,
    ) -> ListAnswer {
        let inside = |created| {
            let date = clock.date(created);
            self.range.is_none_or(|(from, to)| from <= date && date <= to)
        };
        let found: Vec<_> = orders.newest_first().filter(|order| inside(order.created)).collect();
        let rows = found
            .iter()
            .skip((self.page - 1).saturating_mul(self.page_size))
            .take(self.page_size)
            .map(|order| {
                let age = order.age(now);
                let row = order.view(&order.script.truth(age), age, clock);
                match settings.list_card {
                    ListCard::Documented => row.without_date(),
                    ListCard::Complete => row,
                    ListCard::None => row.without_card(),
                }
            })
            .collect();
        let total_pages = found.len().div_ceil(self.page_size);
        let pagination = || {
            let (page, page_size) = (self.page, self.page_size);
            Some(Pagination { page, page_size, total_pages, total_results: found.len() })
        };
        let (topups, items, pagination) = match settings.list_form {
            ListForm::Documented => {
                let data = ListData { topups: Some(rows), items: None, pagination: None };
                let pagination = Some(MetaPagination {
                    current_page: self.page,
                    total_pages,
                    total_items: found.len(),
                    has_next_page: self.page < total_pages,
                });
                return ListAnswer { data, pagination };
            }
            ListForm::Topups => (Some(rows), None, pagination()),
            ListForm::Items => (None, Some(rows), pagination()),
            ListForm::Unpaged => (Some(rows), None, None),
        };
        ListAnswer { data: ListData { topups, items, pagination }, pagination: None }
    }
}

/// Parses a full timestamp or a day. A day stands for its first millisecond, or for its last if `end_of_day` is true.
fn parse_date(text: &str, end_of_day: bool) -> Option<DateTime<Utc>> {
    if let Ok(date) = DateTime::parse_from_rfc3339(text) {
        return Some(date.to_utc());
    }
    let start = text.parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc();
    if end_of_day { start.checked_add_signed(TimeDelta::milliseconds(86_399_999)) } else { Some(start) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &[(&str, &str)]) -> Result<ListQuery, String> {
        let params = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ListQuery::parse(&params).map_err(|error| error.label())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        assert_eq!(parse(&[]), Ok(ListQuery { page: 1, page_size: 20, range: None }));
    }

    #[test]
    fn values_out_of_bounds_and_half_a_range_are_refused() {
        for query in [
            &[("page", "0")][..],
            &[("page", "x")],
            &[("pageSize", "101")],
            &[("from", "2025-11-01")],
            &[("to", "2025-11-01")],
            &[("from", "yesterday"), ("to", "2025-11-01")],
        ] {
            assert_eq!(parse(query), Err("400 ERR_VALIDATION".to_owned()), "{query:?}");
        }
    }

    #[test]
    fn a_day_given_as_the_end_includes_the_whole_day() {
        let query = parse(&[("from", "2025-11-01"), ("to", "2025-11-01")]).expect("a range");
        let (from, to) = query.range.expect("a range");
        assert_eq!((to - from).num_milliseconds(), 86_399_999);
    }
}
