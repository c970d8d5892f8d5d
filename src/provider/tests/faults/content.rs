//! Complete answers with the status 200 that deviate from the documented order.

use super::*;

pub(super) const NO_ENVELOPE: &str = "it is not the documented JSON envelope";
const NO_DATA: &str = "it has no data";
const NO_ORDER: &str = "its data is not an order";
const OTHER_ORDER: &str = "it is about another order";
const CONTRADICTION: &str = "it reports both a success and an error";
const NO_SUCCESS: &str = "its field success is neither true nor false";

fn data(data: &Value) -> Vec<u8> {
    ok(json!({"success": true, "data": data}).to_string())
}

/// The documented answer, except that this field of its envelope has this value.
fn envelope_with(field: &str, value: Value) -> Vec<u8> {
    let mut envelope = order_with("_id", json!(ID));
    envelope[field] = value;
    ok(envelope.to_string())
}

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

/// Like [`unreadable`], for an answer whose envelope has the request id `req_1`.
fn unreadable_1(what: &str) -> Becomes {
    Becomes::Again(format!("the provider's answer cannot be read: {what} (HTTP 200 (req_1))"))
}

#[tokio::test]
async fn a_body_that_is_not_json_is_retried_and_broken_encodings_are_read() {
    let order = order();
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56\x2a\x2e\x4d\x4e\x4e\x2d\x2e\x06\x00";
    let latin_1 = order.replace("order-1", "\u{7f}").into_bytes();
    let latin_1: Vec<u8> = latin_1.into_iter().map(|byte| if byte == 0x7f { 0xe9 } else { byte }).collect();
    let html = "<html><body>Please wait…</body></html>";
    check_all([
        ("an empty body", ok(""), unreadable(NO_ENVELOPE)),
        ("a page", answer("200 OK", &["Content-Type: text/html"], html), unreadable(NO_ENVELOPE)),
        ("a page that says it is JSON", ok(html), unreadable(NO_ENVELOPE)),
        ("JSON that says it is a page", answer("200 OK", &["Content-Type: text/html"], &order), fulfilled()),
        ("JSON that does not say what it is", answer("200 OK", &[], &order), fulfilled()),
        ("a text of JSON", ok(json!(order).to_string()), unreadable(NO_ENVELOPE)),
        ("JSON that ends half-way", ok(&order[..order.len() - 20]), unreadable(NO_ENVELOPE)),
        ("JSON and more", ok(format!("{order}{order}")), unreadable(NO_ENVELOPE)),
        (
            "gzip that was not requested, cut short",
            answer("200 OK", &["Content-Encoding: gzip"], gzip),
            unreadable(NO_ENVELOPE),
        ),
        ("bytes that are no UTF-8", ok(latin_1), fulfilled()),
        ("half a surrogate", ok(order.replace("order-1", "\\ud800")), fulfilled()),
        ("zeros", ok([0; 64]), unreadable(NO_ENVELOPE)),
        ("NaN", ok(order.replace("1000", "NaN")), fulfilled()),
        ("a hundred thousand brackets", ok(nested(100_000)), unreadable(NO_ENVELOPE)),
        ("brackets in a field", ok(order.replace("1000", &nested(1_000))), fulfilled()),
    ])
    .await;
}

#[tokio::test]
async fn an_envelope_without_the_order_is_retried() {
    let router = json!({"message": "gone", "error": "Not Found", "statusCode": 404});
    let text = json!({"message": "gone", "error": "Not Found", "statusCode": "404"});
    check_all([
        ("null", ok("null"), unreadable(NO_ENVELOPE)),
        ("an array", ok("[true, null]"), unreadable(NO_ENVELOPE)),
        ("no data", ok(r#"{"success":true}"#), unreadable(NO_DATA)),
        ("data of null", data(&Value::Null), unreadable(NO_DATA)),
        ("data that is empty", data(&json!({})), unreadable(NO_ORDER)),
        ("data in an array", data(&json!([order_with("_id", json!(ID))["data"]])), unreadable(NO_ORDER)),
        (
            "fields without names",
            data(&json!([ID, "r", "FULFILLED", "ADSL", NUMBER, 1, CARD])),
            unreadable(NO_ORDER),
        ),
        ("a text for data", data(&json!(order())), unreadable(NO_ORDER)),
        ("success as a text", envelope_with("success", json!("true")), fulfilled()),
        ("success of null", envelope_with("success", Value::Null), fulfilled()),
        ("success in words", envelope_with("success", json!("done")), unreadable_1(NO_SUCCESS)),
        ("success as an object", envelope_with("success", json!({})), unreadable_1(NO_SUCCESS)),
        ("success with an error", envelope_with("error", json!({"code": "ERR_STOCK"})), {
            Becomes::Again(format!(
                "the provider's answer cannot be read: {CONTRADICTION} (HTTP 200 ERR_STOCK (req_1))"
            ))
        }),
        ("success with no error", envelope_with("error", Value::Null), fulfilled()),
        ("an id of the request that is a number", envelope_with("requestId", json!(5)), fulfilled()),
        ("the router's envelope", ok(router.to_string()), unreadable(NO_DATA)),
        ("the router's envelope in texts", ok(text.to_string()), unreadable(NO_DATA)),
        ("a failure with an order", envelope_with("success", json!(false)), {
            again("the provider failed: HTTP 200 (req_1)")
        }),
    ])
    .await;
}

#[tokio::test]
async fn an_odd_order_is_read_as_far_as_possible() {
    let with = |field, value| ok(order_with(field, value).to_string());
    let twice = order().replacen(r#""status""#, r#""status":"HANDLING","status""#, 1);
    let other = "6901616fe9e88196b4eb64b3";
    let without_card = || Becomes::Order(TopupStatus::Fulfilled, None);
    let pending = || Becomes::Order(TopupStatus::Unknown("PENDING".to_owned()), Some(CARD));
    check_all([
        ("another order", with("_id", json!(other)), unreadable_1(OTHER_ORDER)),
        ("an id that is empty", with("_id", json!("")), unreadable_1(OTHER_ORDER)),
        ("an id and more", with("_id", json!(format!("{ID}0"))), unreadable_1(OTHER_ORDER)),
        ("an id that is a number", with("_id", json!(17)), unreadable_1(OTHER_ORDER)),
        ("an id that is an object", with("_id", json!({"$oid": ID})), unreadable_1(OTHER_ORDER)),
        ("an id of null", with("_id", Value::Null), fulfilled()),
        ("an id in capitals", with("_id", json!(ID.to_uppercase())), fulfilled()),
        ("a status of null", with("status", Value::Null), unreadable_1(NO_ORDER)),
        ("a status that is a number", with("status", json!(3)), unreadable_1(NO_ORDER)),
        ("a status that is empty", with("status", json!("")), unreadable_1(NO_ORDER)),
        (
            "a status that is a sentence",
            with("status", json!(format!("sent to {NUMBER}"))),
            unreadable_1(NO_ORDER),
        ),
        ("a status that is a number in a text", with("status", json!(NUMBER)), unreadable_1(NO_ORDER)),
        ("an unknown status", with("status", json!("PENDING")), pending()),
        ("a status twice", ok(twice), fulfilled()),
        ("a reference that is an object", with("ref", json!({})), fulfilled()),
        ("a kind that is a number", with("type", json!(4)), fulfilled()),
        ("a number that is a number", with("number", json!(36_362_608)), fulfilled()),
        ("an amount in a text", with("topup_amount", json!("1000")), fulfilled()),
        ("an amount beyond counting", with("topup_amount", json!(1e300)), fulfilled()),
        ("no amount", with("topup_amount", json!([])), fulfilled()),
        ("a transaction that is a number", with("num_trans", json!(5)), fulfilled()),
        ("a date that is an object", with("date_traitement", json!({"$date": 0})), fulfilled()),
        ("a card code that is a number", with("card_code", json!(123_456_789_012_u64)), fulfilled()),
        ("a card code of null", with("card_code", Value::Null), without_card()),
        ("a card code in an array", with("card_code", json!([CARD])), without_card()),
    ])
    .await;
}
