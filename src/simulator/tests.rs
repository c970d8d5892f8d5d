//! The simulator as a client sees it, through its router; the tests in `connection` use a real connection.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

mod connection;
mod faults;

const KEY: &str = "sandbox-key";
const ZERO: Duration = Duration::ZERO;

fn simulator() -> Simulator {
    Simulator::new(SimulatorSettings::default(), 1.0)
}

async fn call(simulator: &Simulator, path: &str, key: Option<&str>, body: Option<&Value>) -> Response {
    let mut request = Request::builder().uri(path).method(if body.is_some() { "POST" } else { "GET" });
    if let Some(key) = key {
        request = request.header("X-Access-Token", key);
    }
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    simulator.router().oneshot(request.body(body).expect("a request")).await.expect("an answer")
}

async fn json_of(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    (status, serde_json::from_slice(&body).expect("JSON"))
}

async fn get(simulator: &Simulator, path: &str) -> (StatusCode, Value) {
    json_of(call(simulator, path, Some(KEY), None).await).await
}

async fn send(simulator: &Simulator, body: &Value) -> (StatusCode, Value) {
    json_of(call(simulator, "/v3/internet/send", Some(KEY), Some(body)).await).await
}

fn check_id(id: &str) -> String {
    format!("/v3/internet/check-id/{id}")
}

#[tokio::test]
async fn each_answer_is_the_documented_order() {
    let simulator = simulator();
    for (answer, status, has_card) in [
        (Answer::Handling, "HANDLING", false),
        (Answer::Fulfilled, "FULFILLED", true),
        (Answer::FulfilledWithoutCard, "FULFILLED", false),
        (Answer::Queued, "QUEUED", false),
        (Answer::Refunded, "REFUNDED", false),
        (Answer::Status("PENDING".to_owned()), "PENDING", false),
    ] {
        let id = simulator.create(Script::always(answer));
        let (http, body) = get(&simulator, &check_id(&id)).await;
        assert_eq!((http, &body["success"]), (StatusCode::OK, &json!(true)));
        assert!(body["meta"]["timestamp"].is_string());
        assert!(body["requestId"].as_str().is_some_and(|id| id.starts_with("req_")));
        let order = &body["data"];
        assert_eq!(order["_id"], json!(id));
        assert_eq!(order["status"], json!(status));
        assert_eq!((&order["type"], &order["topup_amount"]), (&json!("ADSL"), &json!(1000)));
        for field in ["card_code", "num_trans", "date_traitement"] {
            assert_eq!(order.get(field).is_some(), has_card, "{status} {field}");
        }
        if has_card {
            assert_eq!(order["card_code"].as_str().map(str::to_owned), simulator.card_code(&id));
            assert_eq!(order["card_code"].as_str().map(str::len), Some(12));
        }
        let answers: Vec<String> = simulator.calls(&id).into_iter().map(|call| call.answer).collect();
        assert_eq!(answers, [status]);
    }
    assert_eq!(simulator.total_calls(), 6);
}

#[tokio::test]
async fn an_order_follows_its_script_as_domain_time_passes() {
    // A real nanosecond is a second of domain time, so every check finds the order in its last state.
    let fast = Simulator::new(SimulatorSettings::default(), 1e9);
    let day = Duration::from_hours(24);
    let id = fast.create(
        Script::queued_after(Duration::from_millis(1), Duration::from_millis(2)).then(day, Answer::Refunded),
    );
    while fast.status(&id) != Some(SimStatus::Refunded) {
        tokio::task::yield_now().await;
    }
    get(&fast, &check_id(&id)).await;
    let calls = fast.calls(&id);
    assert_eq!(calls.len(), 1);
    assert!(calls[0].at >= day && calls[0].answer == "REFUNDED", "{calls:?}");

    let slow = simulator();
    let id = slow.create(Script::fulfilled_after(day));
    get(&slow, &check_id(&id)).await;
    assert_eq!(slow.status(&id), Some(SimStatus::Handling));
    assert!(slow.calls(&id)[0].at < Duration::from_mins(5));
    assert!(slow.card_code(&id).is_some());
}

#[tokio::test]
async fn a_sent_order_is_found_by_id_and_by_reference() {
    let simulator = simulator();
    let body = json!({ "type": "4G", "number": "213555123456", "value": 500, "ref": "order-1-sim-handling" });
    let (status, sent) = send(&simulator, &body).await;
    assert_eq!((status, &sent["data"]["topupRef"]), (StatusCode::OK, &body["ref"]));
    let id = sent["data"]["topupId"].as_str().expect("an id");
    let (_, by_id) = get(&simulator, &check_id(id)).await;
    let (_, by_ref) = get(&simulator, "/v3/internet/check-ref/order-1-sim-handling").await;
    assert_eq!(by_id["data"], by_ref["data"]);
    assert_eq!((&by_id["data"]["type"], &by_id["data"]["status"]), (&json!("4G"), &json!("HANDLING")));
    assert_eq!(simulator.calls(id).len(), 2);
}

#[tokio::test]
async fn a_wrong_send_is_refused_with_the_documented_code() {
    let simulator = simulator();
    let good = json!({ "type": "ADSL", "number": "036362608", "value": 1000 });
    for (field, value, code) in [
        ("type", json!("FIBRE"), "ERR_VALIDATION"),
        ("number", json!("36362608"), "ERR_PHONE"),
        ("number", json!("213555123456"), "ERR_PHONE"),
        ("number", json!(36_362_608), "ERR_VALIDATION"),
        ("value", json!(0), "ERR_VALIDATION"),
        ("value", json!("1000"), "ERR_VALIDATION"),
        ("ref", json!(""), "ERR_VALIDATION"),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let (status, answer) = send(&simulator, &body).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(code)), "{body}");
        assert_eq!(
            (&answer["success"], &answer["error"]["details"]["field"]),
            (&json!(false), &json!(field))
        );
    }
    assert_eq!(send(&simulator, &json!("no object")).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(send(&simulator, &good).await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_unknown_order_and_an_unknown_path_have_different_error_forms() {
    let simulator = simulator();
    let (status, body) = get(&simulator, "/v3/internet/check-ref/lost").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(
        body["error"],
        json!({ "code": "NOT_FOUND", "message": "Top-up with reference 'lost' not found" })
    );
    let post = call(&simulator, "/v3/internet/list", Some(KEY), Some(&json!({}))).await;
    for (status, body) in [get(&simulator, "/v3/nowhere").await, json_of(post).await] {
        assert_eq!((status, &body["statusCode"]), (StatusCode::NOT_FOUND, &json!(404)));
        assert!(body["message"].is_string() && body["error"].is_string() && body.get("success").is_none());
    }
}

#[tokio::test]
async fn keys_lockout_and_rate_limit_are_answered_as_documented() {
    let settings = SimulatorSettings { rate_limit: 1, ..SimulatorSettings::default() };
    let simulator = Simulator::new(settings, 1.0);
    let id = simulator.create(Script::handling_forever());
    let path = check_id(&id);
    let (status, body) = json_of(call(&simulator, &path, None, None).await).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("MISSING_ACCESS_TOKEN")));
    assert_eq!(get(&simulator, &path).await.0, StatusCode::OK);
    let limited = call(&simulator, &path, Some(KEY), None).await;
    assert!(limited.headers().get(header::RETRY_AFTER).is_none());
    assert_eq!(json_of(limited).await.1["error"]["code"], json!("RATE_LIMIT_EXCEEDED"));
    for left in [4, 3, 2, 1, 0] {
        let (status, body) = json_of(call(&simulator, &path, Some("wrong"), None).await).await;
        assert_eq!(
            (status, &body["error"]["details"]["attemptsLeft"]),
            (StatusCode::UNAUTHORIZED, &json!(left))
        );
    }
    let (status, body) = get(&simulator, &path).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::FORBIDDEN, &json!("IP_BLOCKED")));
    assert_eq!(simulator.most_refused_keys_in_a_row(), 5);
    let answers: Vec<String> = simulator.calls(&id).into_iter().map(|call| call.answer).collect();
    assert_eq!(answers[..3], ["401 MISSING_ACCESS_TOKEN", "HANDLING", "429 RATE_LIMIT_EXCEEDED"]);
    assert_eq!((answers.len(), answers[8].as_str()), (9, "403 IP_BLOCKED"));
}

#[tokio::test]
async fn the_list_starts_with_the_newest_order_and_shows_the_configured_card_fields() {
    for (list_card, fields) in [
        (ListCard::Documented, [true, true, false]),
        (ListCard::Complete, [true, true, true]),
        (ListCard::None, [false, false, false]),
    ] {
        let simulator = Simulator::new(SimulatorSettings { list_card, ..SimulatorSettings::default() }, 1.0);
        let ids: Vec<String> = (0..5).map(|_| simulator.create(Script::fulfilled_after(ZERO))).collect();
        let (_, body) = get(&simulator, "/v3/internet/list?page=2&pageSize=2").await;
        let rows = body["data"]["topups"].as_array().expect("rows");
        assert_eq!(
            rows.iter().map(|row| row["_id"].as_str()).collect::<Vec<_>>(),
            [Some(&*ids[2]), Some(&*ids[1])]
        );
        assert_eq!(
            body["meta"]["pagination"],
            json!({ "currentPage": 2, "totalPages": 3, "totalItems": 5, "hasNextPage": true })
        );
        let card = ["card_code", "num_trans", "date_traitement"];
        assert!(rows.iter().all(|row| card.map(|field| row.get(field).is_some()) == fields));
        let (_, last) = get(&simulator, "/v3/internet/list?page=3&pageSize=2").await;
        assert_eq!(last["meta"]["pagination"]["hasNextPage"], json!(false));
        let (_, old) = get(&simulator, "/v3/internet/list?from=2020-01-01&to=2020-12-31").await;
        assert_eq!(old["meta"]["pagination"]["totalItems"], json!(0));
        assert_eq!(get(&simulator, "/v3/internet/list?pageSize=101").await.0, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn the_list_is_answered_in_each_configured_form() {
    for (list_form, fields) in [
        (ListForm::Documented, &["topups"][..]),
        (ListForm::Topups, &["pagination", "topups"]),
        (ListForm::Items, &["items", "pagination"]),
        (ListForm::Unpaged, &["topups"]),
    ] {
        let simulator = Simulator::new(SimulatorSettings { list_form, ..SimulatorSettings::default() }, 1.0);
        let id = simulator.create(Script::handling_forever());
        let (_, body) = get(&simulator, "/v3/internet/list").await;
        let data = body["data"].as_object().expect("data");
        let mut found: Vec<&str> = data.keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, fields);
        assert_eq!(body["meta"].get("pagination").is_some(), list_form == ListForm::Documented);
        let rows = if list_form == ListForm::Items { &data["items"] } else { &data["topups"] };
        assert_eq!(rows[0]["_id"], json!(id));
    }
}

#[tokio::test]
async fn requests_are_counted_by_kind_and_by_minute() {
    let api_keys = vec![KEY.to_owned(), "second".to_owned()];
    let simulator = Simulator::new(SimulatorSettings { api_keys, ..SimulatorSettings::default() }, 1.0);
    let id = simulator.create_with(NewOrder {
        reference: Some("order-1".to_owned()),
        kind: Kind::Adsl,
        number: "036362608".to_owned(),
        topup_amount: 500,
        script: Script::handling_forever(),
    });
    for _ in 0..3 {
        get(&simulator, &check_id(&id)).await;
    }
    get(&simulator, "/v3/internet/check-ref/order-1").await;
    call(&simulator, "/v3/internet/list", Some("second"), None).await;
    call(&simulator, "/v3/internet/list", Some("second"), None).await;
    send(&simulator, &json!({})).await;
    get(&simulator, "/v3/nowhere").await;
    let kinds = [RequestKind::CheckId, RequestKind::CheckRef, RequestKind::List, RequestKind::Send];
    assert_eq!(kinds.map(|kind| simulator.requests(kind)), [3, 1, 2, 1]);
    assert_eq!(simulator.busiest_minute(), 5, "of the first key");
    assert_eq!(simulator.total_calls(), 8);
}

#[tokio::test]
async fn a_key_can_be_revoked_and_restored_while_it_runs() {
    let simulator = simulator();
    let id = simulator.create(Script::handling_forever());
    for revoked in [false, true, false, true, false] {
        if revoked {
            simulator.revoke_key(KEY);
        } else {
            simulator.restore_key(KEY);
        }
        let status = get(&simulator, &check_id(&id)).await.0;
        assert_eq!(status == StatusCode::UNAUTHORIZED, revoked, "{status}");
    }
    assert_eq!(simulator.most_refused_keys_in_a_row(), 1);
}

#[tokio::test]
async fn an_inspection_needs_no_key_and_shows_no_card() {
    let simulator = simulator();
    let id = simulator.create(Script::fulfilled_after(ZERO));
    get(&simulator, &check_id(&id)).await;
    let (status, body) =
        json_of(call(&simulator, &format!("/simulator/orders/{id}"), None, None).await).await;
    assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("FULFILLED")));
    assert_eq!(body["calls"][0]["answer"], json!("FULFILLED"));
    assert!(body["calls"][0]["atMs"].is_u64());
    assert!(!body.to_string().contains(&simulator.card_code(&id).expect("a card")));
    assert_eq!(simulator.total_calls(), 1);
}

#[test]
fn debug_shows_neither_numbers_nor_keys() {
    let order = NewOrder {
        kind: Kind::FourG,
        number: "213555123456".to_owned(),
        topup_amount: 500,
        reference: None,
        script: Script::handling_forever(),
    };
    let simulator = simulator();
    simulator.create_with(order.clone());
    let shown = format!("{order:?} {simulator:?}");
    assert!(!shown.contains("213555") && !shown.contains(KEY), "{shown}");
}
