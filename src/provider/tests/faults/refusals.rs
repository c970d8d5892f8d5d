//! Answers with an error: their status and code decide whether and how long requests pause.

use super::*;

const JSON: &str = "Content-Type: application/json";
const MINUTES_15: u64 = 15 * 60;
const LOCKOUT: u64 = 16 * 60;
const HOUR: u64 = 60 * 60;

fn error(code: &str) -> String {
    json!({"success": false, "error": {"code": code, "message": NUMBER}, "requestId": "req_1"}).to_string()
}

fn failed(what: &str) -> Becomes {
    again(&format!("the provider failed: HTTP {what}"))
}

#[tokio::test]
async fn a_404_is_about_the_order_only_with_the_code_not_found() {
    let router = json!({"message": NUMBER, "error": "Not Found", "statusCode": 404}).to_string();
    let not_found = |what: &str| {
        Becomes::NotFound(format!("the provider does not know this order: HTTP {what} NOT_FOUND (req_1)"))
    };
    check_all([
        ("NOT_FOUND", answer("404 Not Found", &[JSON], error("NOT_FOUND")), not_found("404")),
        ("NOT_FOUND with 200", ok(error("NOT_FOUND")), not_found("200")),
        (
            "NOT_FOUND with 502",
            answer("502 Bad Gateway", &[JSON], error("NOT_FOUND")),
            failed("502 NOT_FOUND (req_1)"),
        ),
        ("the router's 404", answer("404 Not Found", &[JSON], router), failed("404")),
        (
            "404 with another code",
            answer("404 Not Found", &[JSON], error("NO_ROUTE")),
            failed("404 NO_ROUTE (req_1)"),
        ),
        ("404 with a page", answer("404 Not Found", &[], "<html>"), failed("404")),
        ("404 without a body", answer("404 Not Found", &[], ""), failed("404")),
        ("410", answer("410 Gone", &[JSON], error("NOT_FOUND")), failed("410 NOT_FOUND (req_1)")),
    ])
    .await;
}

#[tokio::test]
async fn a_401_or_403_pauses_requests_whatever_its_body() {
    let unauthorized = |what: &str| gate(MINUTES_15, &format!("the provider refuses the key: HTTP {what}"));
    let forbidden =
        |secs, what: &str| gate(secs, &format!("the provider refuses this address or account: HTTP {what}"));
    let cut = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\n{".to_vec();
    check_all([
        ("401", answer("401 Unauthorized", &[JSON], error("ERR_AUTH")), unauthorized("401 ERR_AUTH (req_1)")),
        ("401 with a page", answer("401 Unauthorized", &[], "<html>"), unauthorized("401")),
        ("401 that breaks off", cut, unauthorized("401")),
        ("401 of 1 MiB", answer("401 Unauthorized", &[], vec![b' '; 1 << 20]), unauthorized("401")),
        ("401 with 200", ok(error("INVALID_ACCESS_TOKEN")), unauthorized("200 INVALID_ACCESS_TOKEN (req_1)")),
        (
            "403",
            answer("403 Forbidden", &[JSON], error("IP_BLOCKED")),
            forbidden(LOCKOUT, "403 IP_BLOCKED (req_1)"),
        ),
        ("403 with 200", ok(error("API_DISABLED")), forbidden(MINUTES_15, "200 API_DISABLED (req_1)")),
        ("403 of a proxy", answer("403 Forbidden", &[], "<html>"), forbidden(LOCKOUT, "403")),
    ])
    .await;
}

#[tokio::test]
async fn retry_after_is_clamped_to_between_a_second_and_an_hour() {
    let limited = |retry_after: &str| {
        answer("429 Too Many Requests", &[JSON, retry_after], error("RATE_LIMIT_EXCEEDED"))
    };
    let waits =
        |secs| gate(secs, "the provider's rate limit is reached: HTTP 429 RATE_LIMIT_EXCEEDED (req_1)");
    check_all([
        ("no Retry-After", limited("X-Other: 5"), waits(10)),
        ("in seconds", limited("Retry-After: 30"), waits(30)),
        ("with room around it", limited("Retry-After:   30  "), waits(30)),
        ("of zero", limited("Retry-After: 0"), waits(1)),
        ("of years", limited("Retry-After: 100000000"), waits(HOUR)),
        ("beyond counting", limited("Retry-After: 99999999999999999999999"), waits(HOUR)),
        ("negative", limited("Retry-After: -5"), waits(10)),
        ("in a fraction", limited("Retry-After: 5.5"), waits(10)),
        ("as a date", limited("Retry-After: Fri, 31 Dec 2100 23:59:59 GMT"), waits(HOUR)),
        ("as a date that has passed", limited("Retry-After: Sun, 06 Nov 1994 08:49:37 GMT"), waits(10)),
        ("in words", limited("Retry-After: soon"), waits(10)),
        ("in bytes", limited("Retry-After: \u{0661}"), waits(10)),
        ("empty", limited("Retry-After:"), waits(10)),
        ("429 of a proxy", answer("429 Too Many Requests", &[], "<html>"), {
            gate(10, "the provider's rate limit is reached: HTTP 429")
        }),
        ("429 with 200", ok(error("RATE_LIMIT_EXCEEDED")), {
            gate(10, "the provider's rate limit is reached: HTTP 200 RATE_LIMIT_EXCEEDED (req_1)")
        }),
    ])
    .await;
}

#[tokio::test]
async fn other_statuses_are_retried_and_a_503_with_retry_after_pauses_requests() {
    let unavailable =
        |headers: &[&str]| answer("503 Service Unavailable", headers, error("AUTH_UNAVAILABLE"));
    let says =
        |secs| gate(secs, "the provider is unavailable for a while: HTTP 503 AUTH_UNAVAILABLE (req_1)");
    let to_itself = ["Location: /v3/internet/check-id/6901616fe9e88196b4eb64b2"];
    let order = order();
    check_all([
        ("503 that says when", unavailable(&["Retry-After: 5"]), says(5)),
        ("503 that says at once", unavailable(&["Retry-After: 0"]), says(1)),
        ("503 that says next year", unavailable(&["Retry-After: 31536000"]), says(HOUR)),
        ("503 that says nothing", unavailable(&[]), failed("503 AUTH_UNAVAILABLE (req_1)")),
        ("503 that says nonsense", unavailable(&["Retry-After: x"]), failed("503 AUTH_UNAVAILABLE (req_1)")),
        ("500", answer("500 Internal Server Error", &[JSON], error("INTERNAL_ERROR")), {
            failed("500 INTERNAL_ERROR (req_1)")
        }),
        ("500 without a code", answer("500 Oops", &[JSON], r#"{"success":false,"error":{}}"#), failed("500")),
        ("500 with an error in words", answer("500 Oops", &[], r#"{"error":"Oops"}"#), failed("500")),
        ("500 with an order", answer("500 Oops", &[JSON], &order), failed("500 (req_1)")),
        ("502 of a proxy", answer("502 Bad Gateway", &["Content-Type: text/html"], "<html>"), failed("502")),
        ("504 of a proxy", answer("504 Gateway Timeout", &[], ""), failed("504")),
        (
            "400",
            answer("400 Bad Request", &[JSON], error("ERR_VALIDATION")),
            failed("400 ERR_VALIDATION (req_1)"),
        ),
        (
            "a code with a number in it",
            answer("400 Bad Request", &[JSON], error(NUMBER)),
            failed("400 (req_1)"),
        ),
        ("201 with an order", answer("201 Created", &[JSON], &order), failed("201 (req_1)")),
        ("204", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), failed("204")),
        ("206", answer("206 Partial Content", &[JSON], &order[..20]), failed("206")),
        ("304", b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec(), failed("304")),
        ("302 to itself", answer("302 Found", &to_itself, ""), failed("302")),
        ("307 to elsewhere", answer("307 Temporary", &["Location: http://192.0.2.1/"], ""), failed("307")),
        ("a failure without a code", ok(r#"{"success":false}"#), failed("200")),
        ("a failure in an odd form", ok(r#"{"success":false,"error":["NOT_FOUND"]}"#), failed("200")),
        ("an unknown status", answer("999 Odd", &[], ""), failed("999")),
    ])
    .await;
}
