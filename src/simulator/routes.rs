//! The HTTP routes of the simulator.
//!
//! Every `/v3` request passes the checks of key, lockout and rate limit before an order is looked up. Lookups hold a
//! lock and must not wait; only the answer may be slow. Each request logs one debug line with method, path and status.
//! The line must omit a reference in the path, because merchants build references from phone numbers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};

use super::Simulator;
use super::envelope::{ApiError, Success, router_error};
use super::fault::Fault;
use super::faults::Stopping;
use super::kind::Kind;
use super::list::ListQuery;
use super::orders::{Call, Draft, Order, Orders, Plan};
use super::script::Answer;
use super::traffic::RequestKind;

const CHECK_REF: &str = "/v3/internet/check-ref/";
/// Largest accepted `value`; no card is worth as much.
const LARGEST_VALUE: u64 = 1_000_000;

pub(super) fn router(simulator: Simulator) -> Router {
    Router::new()
        .route("/v3/internet/send", post(send))
        .route("/v3/internet/check-id/{id}", get(check_by_id))
        .route("/v3/internet/check-ref/{ref}", get(check_by_ref))
        .route("/v3/internet/list", get(list))
        .route("/simulator/orders/{id}", get(inspect))
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(middleware::from_fn_with_state(simulator.clone(), observe))
        .with_state(simulator)
}

async fn observe(State(simulator): State<Simulator>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let is_api = path.starts_with("/v3/");
    if is_api {
        simulator.count_call();
    }
    let response = next.run(request).await;
    if is_api && simulator.settings().latency_ms > 0 {
        tokio::time::sleep(Duration::from_millis(simulator.settings().latency_ms)).await;
    }
    let path = if path.starts_with(CHECK_REF) { "/v3/internet/check-ref/{ref}" } else { &path };
    tracing::debug!(%method, path, status = response.status().as_u16(), "the simulator answered a request");
    response
}

async fn no_route(method: Method, uri: Uri) -> Response {
    router_error(&format!("Route {method}:{} not found", uri.path()))
}

async fn send(State(simulator): State<Simulator>, from: From, body: Bytes) -> Response {
    let draft = simulator.admit(&from, RequestKind::Send).and_then(|()| draft(&body, &simulator));
    match draft {
        Ok(draft) => {
            let (id, reference) = simulator.insert(draft);
            let data = json!({ "topupId": id, "topupRef": reference });
            Success::new(data, simulator.stamp()).into_response()
        }
        Err(error) => error.into_response(simulator.stamp()),
    }
}

/// Reads and validates the body of `POST /v3/internet/send`.
fn draft(body: &[u8], simulator: &Simulator) -> Result<Draft, ApiError> {
    let body: Value =
        serde_json::from_slice(body).map_err(|_| ApiError::validation("body", "The body must be JSON"))?;
    let kind = body["type"]
        .as_str()
        .and_then(Kind::parse)
        .ok_or_else(|| ApiError::validation("type", "type must be ADSL or 4G"))?;
    let number =
        body["number"].as_str().ok_or_else(|| ApiError::validation("number", "number must be a string"))?;
    if !kind.accepts(number) {
        return Err(ApiError::phone());
    }
    let topup_amount = body["value"]
        .as_u64()
        .filter(|value| (1..=LARGEST_VALUE).contains(value))
        .ok_or_else(|| ApiError::validation("value", "value must be a positive whole number"))?;
    let reference = match &body["ref"] {
        Value::Null => None,
        Value::String(text) if (1..=100).contains(&text.len()) => Some(text.clone()),
        _ => return Err(ApiError::validation("ref", "ref must be a string of 1 to 100 characters")),
    };
    let plan = Plan::Drawn(simulator.settings().mix);
    Ok(Draft { kind, number: number.to_owned(), topup_amount, reference, plan })
}

/// The headers and address that identify the sender of a request.
pub(super) struct From {
    pub(super) headers: HeaderMap,
    pub(super) address: IpAddr,
}

impl<S: Sync> FromRequestParts<S> for From {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let address = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |ConnectInfo(peer)| peer.ip());
        Ok(Self { headers: parts.headers.clone(), address })
    }
}

type MaybeStopping = Option<Extension<Stopping>>;

async fn check_by_id(
    State(simulator): State<Simulator>,
    Path(id): Path<String>,
    stopping: MaybeStopping,
    from: From,
) -> Response {
    check(&simulator, RequestKind::CheckId, &id, |orders| orders.by_id_mut(&id), &from, stopping).await
}

async fn check_by_ref(
    State(simulator): State<Simulator>,
    Path(reference): Path<String>,
    stopping: MaybeStopping,
    from: From,
) -> Response {
    check(
        &simulator,
        RequestKind::CheckRef,
        &reference,
        |orders| orders.by_ref_mut(&reference),
        &from,
        stopping,
    )
    .await
}

async fn check(
    simulator: &Simulator,
    kind: RequestKind,
    key: &str,
    find: impl FnOnce(&mut Orders) -> Option<&mut Order>,
    from: &From,
    stopping: MaybeStopping,
) -> Response {
    let decided = simulator.with_orders(|orders, now, clock| {
        let admitted = simulator.admit(from, kind);
        let by = if kind == RequestKind::CheckRef { "reference" } else { "ID" };
        let Some(order) = find(orders) else {
            return Err(admitted.err().unwrap_or_else(|| ApiError::not_found(by, key)));
        };
        let age = order.age(now);
        if let Err(refusal) = admitted {
            order.calls.push(Call { at: age, answer: refusal.label() });
            return Err(refusal);
        }
        let answer = match simulator.draw_fault() {
            Some(fault) => Answer::Fault(fault),
            None => order.script.next_answer(age),
        };
        let label = match &answer {
            Answer::Fault(fault) => fault.label(),
            answer => answer.status().map_or_else(String::new, |status| status.to_string()),
        };
        order.calls.push(Call { at: age, answer: label });
        let (shown, fault) = match answer {
            Answer::Fault(fault) => (order.script.truth(age), Some(fault)),
            answer => (answer, None),
        };
        Ok((order.view(&shown, age, clock), fault))
    });
    match decided {
        Err(error) => error.into_response(simulator.stamp()),
        Ok((order, None)) => Success::new(order, simulator.stamp()).into_response(),
        Ok((order, Some(fault))) => {
            let stopping = stopping.map(|Extension(stopping)| stopping);
            Fault::respond(fault, order, simulator.stamp(), stopping).await
        }
    }
}

async fn list(
    State(simulator): State<Simulator>,
    Query(params): Query<HashMap<String, String>>,
    from: From,
) -> Response {
    let admitted = simulator.admit(&from, RequestKind::List);
    let failing = if simulator.fails() { Err(ApiError::internal()) } else { Ok(()) };
    match admitted.and(failing).and_then(|()| ListQuery::parse(&params)) {
        Ok(query) => {
            let settings = simulator.settings();
            let answer = simulator.with_orders(|orders, now, clock| query.page(orders, now, clock, settings));
            Success::paged(answer.data, answer.pagination, simulator.stamp()).into_response()
        }
        Err(error) => error.into_response(simulator.stamp()),
    }
}

/// Shows an order's status and checks to people and scripts. It needs no key and must not show the card.
async fn inspect(State(simulator): State<Simulator>, Path(id): Path<String>) -> Response {
    let Some(status) = simulator.status(&id) else {
        return router_error("The simulator has no such order");
    };
    let row = |call: Call| {
        let at_ms = u64::try_from(call.at.as_millis()).unwrap_or(u64::MAX);
        json!({ "atMs": at_ms, "answer": call.answer })
    };
    let calls: Vec<Value> = simulator.calls(&id).into_iter().map(row).collect();
    Json(json!({ "topupId": id, "status": status.to_string(), "calls": calls })).into_response()
}
