//! Each fault gives its documented answer and leaves the order unchanged.

use super::*;

#[tokio::test]
async fn faults_with_an_envelope_carry_status_code_and_retry_after() {
    let simulator = simulator();
    for (fault, label, retry_after) in [
        (Fault::InternalError500, "500 INTERNAL_ERROR", None),
        (Fault::Unavailable503 { retry_after: None }, "503 SERVICE_UNAVAILABLE", None),
        (Fault::Unavailable503 { retry_after: Some(7) }, "503 SERVICE_UNAVAILABLE", Some("7")),
        (Fault::AuthUnavailable503, "503 AUTH_UNAVAILABLE", Some("5")),
        (Fault::NotFound404, "404 NOT_FOUND", None),
        (Fault::RateLimited429 { retry_after: None }, "429 RATE_LIMIT_EXCEEDED", None),
        (Fault::RateLimited429 { retry_after: Some(30) }, "429 RATE_LIMIT_EXCEEDED", Some("30")),
        (Fault::InvalidToken401, "401 INVALID_ACCESS_TOKEN", None),
        (Fault::IpBlocked403, "403 IP_BLOCKED", None),
    ] {
        let id = simulator.create(Script::fulfilled_after(ZERO).first([Answer::Fault(fault)]));
        let response = call(&simulator, &check_id(&id), Some(KEY), None).await;
        let header =
            response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(header.as_deref(), retry_after, "{label}");
        let (status, body) = json_of(response).await;
        assert_eq!(format!("{} {}", status.as_u16(), body["error"]["code"].as_str().expect("a code")), label);
        assert_eq!(simulator.calls(&id)[0].answer, label);
        assert_eq!(simulator.status(&id), Some(SimStatus::Fulfilled));
        assert_eq!(get(&simulator, &check_id(&id)).await.1["data"]["status"], json!("FULFILLED"));
    }
}

#[tokio::test]
async fn faults_of_the_body_have_their_status_type_and_content() {
    let simulator = simulator();
    let mut bodies = Vec::new();
    for fault in [Fault::RouterError, Fault::NotJson, Fault::Truncated, Fault::WrongShape, Fault::HugeBody] {
        let id = simulator.create(Script::fulfilled_after(ZERO).then(ZERO, Answer::Fault(fault)));
        let response = call(&simulator, &check_id(&id), Some(KEY), None).await;
        let (status, kind) = (response.status().as_u16(), response.headers()[header::CONTENT_TYPE].clone());
        let body = to_bytes(response.into_body(), 65 << 20).await.expect("a body");
        bodies.push((id, status, kind, body));
    }
    let [router, html, cut, shape, huge] = &bodies[..] else { panic!("five answers") };
    assert!(router.1 == 404 && router.3.starts_with(b"{"));
    assert!(html.1 == 200 && html.2 == "text/html; charset=utf-8" && html.3.starts_with(b"<html>"));
    assert!(cut.1 == 200 && cut.2 == "application/json");
    assert!(serde_json::from_slice::<Value>(&cut.3).is_err_and(|error| error.is_eof()));
    let card = simulator.card_code(&cut.0).expect("a card");
    assert!(String::from_utf8_lossy(&cut.3).contains(&card), "the cut must come after the card");
    let shape: Value = serde_json::from_slice(&shape.3).expect("JSON");
    assert!(shape["success"] == json!(true) && shape["data"].get("status").is_none());
    assert!(huge.1 == 200 && huge.3.len() > 64 << 20);
}

#[tokio::test]
async fn an_order_may_come_as_html_or_under_another_id() {
    let simulator = simulator();
    let fulfilled = |fault| Script::fulfilled_after(ZERO).then(ZERO, Answer::Fault(fault));
    let id = simulator.create(fulfilled(Fault::WrongContentType));
    let response = call(&simulator, &check_id(&id), Some(KEY), None).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/html");
    assert_eq!(json_of(response).await.1["data"]["_id"], json!(id));
    let id = simulator.create(fulfilled(Fault::OtherOrder));
    let (status, body) = get(&simulator, &check_id(&id)).await;
    let other = body["data"]["_id"].as_str().expect("an id");
    assert!(status == StatusCode::OK && other.len() == id.len() && other != id, "{other}");
    assert_eq!(body["data"]["status"], json!("FULFILLED"));
}

#[tokio::test]
async fn the_error_rate_affects_checks_only() {
    let settings = SimulatorSettings { error_rate: 1.0, ..SimulatorSettings::default() };
    let simulator = Simulator::new(settings, 1.0);
    let id = simulator.create(Script::handling_forever());
    for _ in 0..20 {
        call(&simulator, &check_id(&id), Some(KEY), None).await;
    }
    assert!(simulator.calls(&id).iter().all(|call| call.answer != "HANDLING"));
    assert_eq!(get(&simulator, "/v3/internet/list").await.0, StatusCode::OK);
}
