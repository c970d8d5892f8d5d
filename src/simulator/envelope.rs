//! The provider's envelopes: the documented success and error forms, and the 404 of the router in front of the API.
//!
//! Success is `{success,data,meta{timestamp},requestId}`, an error `{success,error{code,message,details?},requestId}`.
//! An unknown path does not reach the API; the router answers it with `{message,error,statusCode}`. The forms are
//! structs and not `json!` so that the fields keep the documented order.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

/// The pagination in `meta` of a list, as the provider's reference documents it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetaPagination {
    pub(super) current_page: usize,
    pub(super) total_pages: usize,
    pub(super) total_items: usize,
    pub(super) has_next_page: bool,
}

/// Fields that every answer of the API carries.
pub(super) struct Stamp {
    /// Time of the answer, in domain time.
    pub(super) timestamp: String,
    /// `req_…`, unique to each answer.
    pub(super) request_id: String,
}

#[derive(Serialize)]
struct Meta {
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pagination: Option<MetaPagination>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Success<T> {
    #[serde(rename = "success")]
    ok: bool,
    data: T,
    meta: Meta,
    request_id: String,
}

impl<T: Serialize> Success<T> {
    pub(super) fn new(data: T, stamp: Stamp) -> Self {
        Self::paged(data, None, stamp)
    }

    /// Wraps `data` and puts the pagination, if given, into `meta`.
    pub(super) fn paged(data: T, pagination: Option<MetaPagination>, stamp: Stamp) -> Self {
        let meta = Meta { timestamp: stamp.timestamp, pagination };
        Self { ok: true, data, meta, request_id: stamp.request_id }
    }

    /// The body alone, for a fault that alters the response.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Invariant: an envelope holds only texts, numbers and lists, which always serialize.
        serde_json::to_vec(self).expect("an envelope is JSON")
    }

    pub(super) fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    #[serde(rename = "success")]
    ok: bool,
    error: ErrorBody,
    request_id: String,
}

#[derive(Serialize)]
struct ErrorBody {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
}

#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: Option<Value>,
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), details: None, retry_after: None }
    }

    pub(super) fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "MISSING_ACCESS_TOKEN", "Access token is required")
    }

    pub(super) fn invalid_token(attempts_left: u32) -> Self {
        let details = Some(json!({ "attemptsLeft": attempts_left }));
        Self {
            details,
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "INVALID_ACCESS_TOKEN",
                "The provided access token is invalid",
            )
        }
    }

    pub(super) fn ip_blocked() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "IP_BLOCKED",
            "Your IP address is temporarily blocked after too many failed authentications",
        )
    }

    pub(super) fn ip_not_allowed() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "IP_NOT_ALLOWED",
            "Your IP address is not in the list of allowed addresses of this key",
        )
    }

    pub(super) fn rate_limited(retry_after: Option<u64>) -> Self {
        Self {
            retry_after,
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT_EXCEEDED", "Too many requests, slow down")
        }
    }

    /// A request whose `field` is invalid.
    pub(super) fn validation(field: &str, message: &str) -> Self {
        let details = Some(json!({ "field": field }));
        Self { details, ..Self::new(StatusCode::BAD_REQUEST, "ERR_VALIDATION", message) }
    }

    /// A phone number that does not fit the kind of line (ADSL or 4G). The error message must not repeat the number.
    pub(super) fn phone() -> Self {
        let details = Some(json!({ "field": "number" }));
        Self {
            details,
            ..Self::new(
                StatusCode::BAD_REQUEST,
                "ERR_PHONE",
                "The number is not valid for this type of subscription",
            )
        }
    }

    /// No order has this key. `by` names the kind of key: "reference" or "ID".
    pub(super) fn not_found(by: &str, key: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("Top-up with {by} '{key}' not found"))
    }

    pub(super) fn auth_unavailable() -> Self {
        Self {
            retry_after: Some(5),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "AUTH_UNAVAILABLE",
                "Authentication is temporarily unavailable, your key is not the problem",
            )
        }
    }

    pub(super) fn unavailable(retry_after: Option<u64>) -> Self {
        Self {
            retry_after,
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "SERVICE_UNAVAILABLE",
                "Service temporarily unavailable",
            )
        }
    }

    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "An unexpected error occurred")
    }

    #[cfg(test)]
    pub(super) fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// Status and code, as the record of calls shows them, such as `404 NOT_FOUND`.
    pub(super) fn label(&self) -> String {
        format!("{} {}", self.status.as_u16(), self.code)
    }

    pub(super) fn into_response(self, stamp: Stamp) -> Response {
        let body = Failure {
            ok: false,
            error: ErrorBody { code: self.code, message: self.message, details: self.details },
            request_id: stamp.request_id,
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The answer of the router in front of the API to an unknown path.
pub(super) fn router_error(message: &str) -> Response {
    let body = json!({ "message": message, "error": "Not Found", "statusCode": 404 });
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}
