//! Answers of the provider that are of no use.

/// An answer to a check that is no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `500 INTERNAL_ERROR`.
    InternalError500,
    /// `503 SERVICE_UNAVAILABLE`.
    Unavailable503 {
        /// Seconds of the `Retry-After` header, absent if none.
        retry_after: Option<u64>,
    },
    /// `503 AUTH_UNAVAILABLE` with `Retry-After: 5`.
    AuthUnavailable503,
    /// `404 NOT_FOUND`, as if the order did not exist.
    NotFound404,
    /// `429 RATE_LIMIT_EXCEEDED`.
    RateLimited429 {
        /// Seconds of the `Retry-After` header, absent if none.
        retry_after: Option<u64>,
    },
    /// `401 INVALID_ACCESS_TOKEN`, though the key was right; it does not count towards the lockout.
    InvalidToken401,
    /// `403 IP_BLOCKED`.
    IpBlocked403,
    /// A `404` of the router in front of the API: `{message,error,statusCode}`, without `success` and without
    /// a code.
    RouterError,
    /// `200` with an HTML page.
    NotJson,
    /// `200` with JSON that ends within the order, and a `Content-Length` that is right for what is there.
    /// The cut comes after the card fields of a fulfilled order: a client that logs what it cannot read gives
    /// the card away.
    Truncated,
    /// `200` with a `Content-Length`, and the connection closed half-way through the order.
    BrokenOff,
    /// `200` with the order, a byte a second; real time, as the client's time-out is.
    SlowBody,
    /// `200` with the order, said to be HTML.
    WrongContentType,
    /// `200` with the order under the id of another.
    OtherOrder,
    /// `200`, `success: true`, and data without a status.
    WrongShape,
    /// `200` with a body of 64 MiB.
    HugeBody,
    /// No answer at all until the server stops.
    Hang,
    /// The connection is closed before any answer.
    DropConnection,
}
