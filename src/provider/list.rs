//! Reads a page of the provider's list of orders.
//!
//! The provider's reference page shows rows in `data.topups` and the pagination in `meta`; the page about mobile
//! top-ups shows `data.items` and `data.pagination`. A row shows all of the card, a part of it or nothing. All these
//! forms are accepted. An unreadable row does not affect the others; its order can still be checked by id.

use topup_jobs::{ProviderOrder, Timestamp, TopupId};

use super::ApiError;
use super::json::Fields;
use super::wire::{Content, RawAnswer, WireOrder, read_content};

/// Rows requested with each page: the provider's maximum.
pub(super) const PAGE_SIZE: u32 = 100;

/// A page of the list of orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderList {
    /// The readable rows, in the provider's sequence.
    pub orders: Vec<ListedOrder>,
    /// The number of the next page, if one follows or may follow.
    pub next_page: Option<u32>,
    /// One entry for each unreadable row: the order's id, if that can be read.
    pub unreadable: Vec<Option<TopupId>>,
}

/// A row of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedOrder {
    /// The order's id.
    pub topup_id: TopupId,
    /// The order's state. Even if the order is `FULFILLED`, the row may lack a part of the card or the whole card.
    pub order: ProviderOrder,
    /// When the provider created the order, from the row or else from the id.
    pub created_at: Option<Timestamp>,
}

/// Reads the provider's answer to the request for this page of the list.
pub(super) fn read_list(raw: &RawAnswer<'_>, page: u32) -> Result<OrderList, ApiError> {
    let Content { answer, data, meta } = read_content(raw).map_err(about_the_list)?;
    let Some((rows, data)) = data.and_then(|data| Some((rows(&data)?, data))) else {
        return Err(ApiError::Unreadable { answer, what: "its data is not a list of orders" });
    };
    let pagination = [Some(data), meta].into_iter().flatten().find_map(|place| place.object("pagination"));
    let next_page = next_page(page, rows.len(), pagination.as_ref());
    let mut list = OrderList { orders: Vec::with_capacity(rows.len()), next_page, unreadable: Vec::new() };
    for row in rows {
        match Fields::read(row).ok_or(None).and_then(listed) {
            Ok(order) => list.orders.push(order),
            Err(topup_id) => list.unreadable.push(topup_id),
        }
    }
    Ok(list)
}

/// Returns what an error means if the request was for the list: a 403 refuses the list alone, unless it has one of the
/// codes that the provider's list of errors documents for 403.
pub(super) fn about_the_list(error: ApiError) -> ApiError {
    match error {
        // A request for the list is about no single order, so `NOT_FOUND` counts as a failure of the provider.
        ApiError::NotFound(answer) => ApiError::Failed(answer),
        ApiError::Forbidden(answer)
            if !matches!(answer.code.as_deref(), Some("IP_BLOCKED" | "IP_NOT_ALLOWED" | "API_DISABLED")) =>
        {
            ApiError::ListForbidden(answer)
        }
        error => error,
    }
}

/// The rows, in `topups` or `items`.
fn rows<'a>(data: &Fields<'a>) -> Option<Vec<&'a str>> {
    ["topups", "items"].into_iter().find_map(|name| data.array(name))
}

/// The number of the next page. A page without rows is always the last one, even if the pagination names a next one, so
/// that reading the list ends. Without pagination, a full page may be followed by another.
fn next_page(page: u32, rows: usize, pagination: Option<&Fields<'_>>) -> Option<u32> {
    let has_next_page = pagination.and_then(|pagination| pagination.bool("hasNextPage"));
    let total_pages = pagination.and_then(|pagination| pagination.number("totalPages"));
    let more = match (has_next_page, total_pages) {
        _ if rows == 0 => false,
        (Some(more), _) => more,
        (None, Some(total_pages)) => u64::from(page) < total_pages,
        (None, None) => rows >= PAGE_SIZE as usize,
    };
    if more { page.checked_add(1) } else { None }
}

/// Reads a row. The error is the order's id, if at least that can be read.
fn listed(row: Fields<'_>) -> Result<ListedOrder, Option<TopupId>> {
    let topup_id: Option<TopupId> = row.str("_id").and_then(|id| id.try_into().ok());
    match (WireOrder::read(row), topup_id) {
        (Some(order), Some(topup_id)) => {
            let created_at = order.created_at().or_else(|| topup_id.created_at());
            Ok(ListedOrder { topup_id, order: order.into(), created_at })
        }
        (_, topup_id) => Err(topup_id),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderMap;
    use serde_json::{Value, json};
    use topup_jobs::TopupStatus;

    use super::super::client::MAX_LIST_BYTES;
    use super::super::json::Text;
    use super::*;

    fn read_bytes(status: u16, body: &[u8], page: u32) -> Result<OrderList, ApiError> {
        let body = Text::read(body, MAX_LIST_BYTES);
        read_list(&RawAnswer { status, headers: &HeaderMap::new(), body: &body }, page)
    }

    fn id(number: usize) -> String {
        format!("{number:024x}")
    }

    fn rows(count: usize) -> Value {
        (0..count).map(|number| json!({"_id": id(number), "status": "HANDLING"})).collect()
    }

    fn read(page: u32, data: &Value) -> Result<OrderList, ApiError> {
        let body = json!({"success": true, "data": data}).to_string();
        read_bytes(200, body.as_bytes(), page)
    }

    #[test]
    fn rows_are_read_under_either_name_with_and_without_a_card() {
        let with_card = json!({"_id": id(1).to_uppercase(), "status": "FULFILLED", "card_code": "123456789012",
            "num_trans": "AT-1"});
        let without = json!({"_id": id(10), "status": "FULFILLED", "number": "036362608"});
        for name in ["topups", "items"] {
            let list = read(1, &json!({ name: [with_card, without] })).unwrap();
            let ids: Vec<&str> = list.orders.iter().map(|row| row.topup_id.as_str()).collect();
            assert_eq!(ids, [id(1), id(10)], "{name}");
            let card = list.orders[0].order.card.as_ref().unwrap();
            assert_eq!((card.card_code.reveal(), card.num_trans.as_deref()), ("123456789012", Some("AT-1")));
            assert_eq!(
                (&list.orders[1].order.status, &list.orders[1].order.card),
                (&TopupStatus::Fulfilled, &None)
            );
            assert_eq!((list.next_page, list.unreadable), (None, Vec::new()));
        }
        let beside = json!({"topups": null, "items": [without]});
        assert_eq!(read(1, &beside).unwrap().orders.len(), 1, "a name without rows hides no other");
    }

    #[test]
    fn the_pagination_gives_the_next_page_and_without_it_a_full_page_is_followed_by_another() {
        for (page, count, pagination, next_page) in [
            (1, 100, json!({"page": 1, "pageSize": 100, "totalPages": 3, "totalResults": 250}), Some(2)),
            (3, 50, json!({"page": 3, "pageSize": 100, "totalPages": 3, "totalResults": 250}), None),
            (1, 100, json!({"page": 1, "pageSize": 100, "totalPages": 1, "totalResults": 100}), None),
            (1, 20, json!({"pageSize": 20, "totalPages": 2}), Some(2)),
            (1, 100, Value::Null, Some(2)),
            (7, 99, Value::Null, None),
            (1, 100, json!({"totalPages": "3"}), Some(2)),
            (1, 99, json!({"totalPages": -1}), None),
            (1, 100, json!([3]), Some(2)),
            (9, 0, json!({"totalPages": 1_000}), None),
            (u32::MAX, 100, Value::Null, None),
        ] {
            let list = read(page, &json!({"topups": rows(count), "pagination": pagination})).unwrap();
            assert_eq!(list.next_page, next_page, "page {page} of {count} rows, {pagination}");
            assert_eq!(list.orders.len(), count);
        }
    }

    #[test]
    fn the_sample_of_the_reference_page_is_read() {
        let body = json!({"success": true, "data": {"topups": [
            {"_id": "6901616fe9e88196b4eb64b2", "ref": "order-123456", "status": "FULFILLED", "type": "ADSL",
             "number": "036362608", "topup_amount": 1000, "card_code": "123456789012",
             "num_trans": "AT-2025-12345", "created_at": "2025-11-01T12:00:00.000Z"}]},
            "meta": {"timestamp": "2025-11-01T12:30:00.000Z",
                "pagination": {"currentPage": 1, "totalPages": 5, "totalItems": 95, "hasNextPage": true}}});
        let list = read_bytes(200, body.to_string().as_bytes(), 1).unwrap();
        assert_eq!((list.next_page, list.unreadable), (Some(2), Vec::new()));
        let card = list.orders[0].order.card.as_ref().unwrap();
        assert_eq!(
            (card.num_trans.as_deref(), card.date_traitement.as_deref()),
            (Some("AT-2025-12345"), None)
        );
        assert!(!card.is_complete(), "the date is missing");
        assert_eq!(list.orders[0].created_at.unwrap().to_rfc3339(), "2025-11-01T12:00:00+00:00");
    }

    #[test]
    fn a_card_is_complete_with_all_three_fields_only() {
        let whole = json!({"_id": id(1), "status": "FULFILLED", "card_code": "123456789012", "num_trans": "AT-1",
            "date_traitement": "2025-11-01T12:00:45.000Z"});
        for lacking in ["card_code", "num_trans", "date_traitement", "ref"] {
            for nothing in [json!(null), json!("")] {
                let mut row = whole.clone();
                row[lacking] = nothing;
                let list = read(1, &json!({"items": [row]})).unwrap();
                let complete = list.orders[0].order.card.as_ref().is_some_and(topup_jobs::Card::is_complete);
                assert_eq!(complete, lacking == "ref", "without {lacking}");
            }
        }
    }

    #[test]
    fn the_creation_time_comes_from_the_row_or_else_from_the_id() {
        let row = |created_at: Value| json!({"_id": "6901616fe9e88196b4eb64b2", "status": "HANDLING", "created_at": created_at});
        for (value, expected) in [
            (json!("2025-11-01T13:00:00.000+01:00"), "2025-11-01T12:00:00+00:00"),
            (json!("yesterday"), "2025-10-29T00:35:59+00:00"),
            (json!(null), "2025-10-29T00:35:59+00:00"),
        ] {
            let list = read(1, &json!({"topups": [row(value)]})).unwrap();
            assert_eq!(list.orders[0].created_at.unwrap().to_rfc3339(), expected);
        }
    }

    #[test]
    fn the_pagination_of_the_envelope_counts_where_data_has_none() {
        for (page, count, pagination, next_page) in [
            (1, 20, json!({"currentPage": 1, "totalPages": 2, "hasNextPage": true}), Some(2)),
            (2, 100, json!({"currentPage": 2, "totalPages": 2, "hasNextPage": false}), None),
            (1, 20, json!({"totalPages": 2}), Some(2)),
            (1, 20, json!({"hasNextPage": "yes"}), None),
            (3, 0, json!({"hasNextPage": true}), None),
        ] {
            let body =
                json!({"success": true, "data": {"topups": rows(count)}, "meta": {"pagination": pagination}});
            let list = read_bytes(200, body.to_string().as_bytes(), page).unwrap();
            assert_eq!(list.next_page, next_page, "page {page} of {count} rows, {pagination}");
        }
    }

    #[test]
    fn an_unreadable_row_does_not_affect_the_others() {
        let good = json!({"_id": id(1), "status": "HANDLING"});
        for bad in [
            json!(null),
            json!("036362608"),
            json!({}),
            json!({"_id": id(2)}),
            json!({"_id": id(2), "status": 5}),
            json!({"_id": id(2), "status": "call 0661223344"}),
            json!({"status": "HANDLING"}),
            json!({"_id": "short", "status": "HANDLING"}),
            json!({"_id": 17, "status": "HANDLING"}),
            json!([id(2), "ref", "FULFILLED", "ADSL", "036362608", 1000, "123456789012", "AT-1", "2025"]),
        ] {
            let list = read(1, &json!({"topups": [bad, good, bad]})).unwrap();
            let topup_id = bad.get("_id").and_then(|id| id.as_str()?.parse().ok());
            assert_eq!((list.orders.len(), list.unreadable), (1, vec![topup_id.clone(), topup_id]), "{bad}");
        }
        let mut full = rows(100);
        full[0] = json!(null);
        assert_eq!(
            read(1, &json!({ "topups": full })).unwrap().next_page,
            Some(2),
            "it still fills the page"
        );
    }

    #[test]
    fn an_answer_that_is_no_list_is_a_typed_error() {
        for data in [json!({}), json!([]), json!("topups"), json!({"topups": {}}), json!({"topups": "none"})]
        {
            let error = read(1, &data).unwrap_err();
            assert!(matches!(error, ApiError::Unreadable { .. }), "{data}: {error}");
        }
        let body = br#"{"success":false,"error":{"code":"NOT_FOUND"}}"#;
        let error = read_bytes(404, body, 1).unwrap_err();
        assert_eq!(error.to_string(), "the provider failed: HTTP 404 NOT_FOUND", "it is about no order");
        let error = read_bytes(403, b"", 1).unwrap_err();
        assert!(matches!(error, ApiError::ListForbidden(_)), "{error}");
        assert_eq!(error.closes_for(), None, "orders are checked as before");
        for code in ["IP_BLOCKED", "IP_NOT_ALLOWED", "API_DISABLED"] {
            let body = json!({"success": false, "error": {"code": code}}).to_string();
            let error = read_bytes(403, body.as_bytes(), 1).unwrap_err();
            assert!(matches!(error, ApiError::Forbidden(_)), "{error}");
        }
    }
}
