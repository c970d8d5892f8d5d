//! The faults that the simulator can answer a check with.

/// An abnormal answer to a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `500 INTERNAL_ERROR`.
    InternalError500,
    /// `503 SERVICE_UNAVAILABLE`.
    Unavailable503 {
        /// Seconds in the `Retry-After` header; `None` omits the header.
        retry_after: Option<u64>,
    },
    /// `503 AUTH_UNAVAILABLE` with `Retry-After: 5`.
    AuthUnavailable503,
    /// `404 NOT_FOUND`, as if the order did not exist.
    NotFound404,
    /// `429 RATE_LIMIT_EXCEEDED`.
    RateLimited429 {
        /// Seconds in the `Retry-After` header; `None` omits the header.
        retry_after: Option<u64>,
    },
    /// `401 INVALID_ACCESS_TOKEN` for a valid key; it does not count towards the lockout.
    InvalidToken401,
    /// `403 IP_BLOCKED`.
    IpBlocked403,
    /// `404` of the router in front of the API: `{message,error,statusCode}`, without `success` or a code.
    RouterError,
    /// `200` with an HTML page.
    NotJson,
    /// `200` with JSON that is cut inside the order; `Content-Length` matches the cut body. The cut follows the card
    /// fields of a fulfilled order, so a client that logged unreadable bodies would leak the card.
    Truncated,
    /// `200` with the `Content-Length` of the whole body; the connection closes after half of it.
    BrokenOff,
    /// `200` with the order at one byte a second, in real (not scaled) time, because the client's time-out is real too.
    SlowBody,
    /// `200` with the order and `Content-Type: text/html`.
    WrongContentType,
    /// `200` with the order under another order's id.
    OtherOrder,
    /// `200`, `success: true`, and data without a status.
    WrongShape,
    /// `200` with a body of 64 MiB.
    HugeBody,
    /// No answer until the server stops.
    Hang,
    /// The connection is closed before any answer.
    DropConnection,
}
