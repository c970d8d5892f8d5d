//! Errors of requests to the provider, and what each means for further requests.

use std::fmt;
use std::time::Duration;

/// The parts of an unusable answer that are safe to log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The field `error.code`, if the body has one that is safe to log.
    pub code: Option<String>,
    /// The field `requestId`, which the provider's support asks for.
    pub request_id: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if let Some(request_id) = &self.request_id {
            write!(f, " ({request_id})")?;
        }
        Ok(())
    }
}

/// Why a request to the provider brought no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// 404 or 200 with the code `NOT_FOUND`: the provider does not know the order. A 404 without that code comes from a
    /// router and says nothing about the order.
    #[error("the provider does not know this order: {0}")]
    NotFound(Answer),
    /// 401: the key is missing or wrong. After five such answers the provider locks the address out for 15 minutes.
    #[error("the provider refuses the key: {0}")]
    Unauthorized(Answer),
    /// 403: the address is blocked or not allowed (`IP_BLOCKED`, `IP_NOT_ALLOWED`), or the API is disabled for the
    /// account of the key (`API_DISABLED`).
    #[error("the provider refuses this address or account: {0}")]
    Forbidden(Answer),
    /// 403 for a page of the list, without a code about the address or the account: the key may not read the list.
    #[error("the provider refuses the list of orders: {0}")]
    ListForbidden(Answer),
    /// 429: too many requests.
    #[error("the provider's rate limit is reached: {answer}")]
    RateLimited {
        /// Status, code and request id.
        answer: Answer,
        /// The header `Retry-After`, usually absent.
        retry_after: Option<Duration>,
    },
    /// 503 with `Retry-After`.
    #[error("the provider is unavailable for a while: {answer}")]
    Unavailable {
        /// Status, code and request id.
        answer: Answer,
        /// The header `Retry-After`.
        retry_after: Duration,
    },
    /// Any other status that is not 200.
    #[error("the provider failed: {0}")]
    Failed(Answer),
    /// 200 with a body that is not the documented envelope, or does not hold the requested order or list.
    #[error("the provider's answer cannot be read: {what} ({answer})")]
    Unreadable {
        /// Status, code and request id.
        answer: Answer,
        /// What is wrong with the body.
        what: &'static str,
    },
    /// The connection could not be made, or broke.
    #[error("the connection to the provider failed: {0}")]
    Connection(&'static str),
    /// The answer was not complete within the time limit.
    #[error("the provider did not answer in time")]
    TimedOut,
}

/// The result of a request, as a metric's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// The requested order or page, or `NOT_FOUND`.
    Usable,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 429.
    RateLimited,
    /// 503 with `Retry-After`.
    Unavailable,
    /// No connection, no answer in time, or any other answer that cannot be used.
    Failed,
}

impl AnswerKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Usable,
        Self::Unauthorized,
        Self::Forbidden,
        Self::RateLimited,
        Self::Unavailable,
        Self::Failed,
    ];

    /// The kind of answer to a request that ended in this error, or without an error.
    #[must_use]
    pub const fn of(error: Option<&ApiError>) -> Self {
        match error {
            None | Some(ApiError::NotFound(_)) => Self::Usable,
            Some(ApiError::Unauthorized(_)) => Self::Unauthorized,
            Some(ApiError::Forbidden(_) | ApiError::ListForbidden(_)) => Self::Forbidden,
            Some(ApiError::RateLimited { .. }) => Self::RateLimited,
            Some(ApiError::Unavailable { .. }) => Self::Unavailable,
            Some(
                ApiError::Failed(_)
                | ApiError::Unreadable { .. }
                | ApiError::Connection(_)
                | ApiError::TimedOut,
            ) => Self::Failed,
        }
    }

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::RateLimited => "rate-limited",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
        }
    }
}

impl ApiError {
    /// Whether the error is not a documented answer of the API. The API may then be down, or a proxy may have answered.
    #[must_use]
    pub fn says_nothing(&self) -> bool {
        match self {
            Self::Connection(_) | Self::TimedOut | Self::Unreadable { .. } => true,
            // 400 is documented as an invalid request, so it is an answer of the API.
            Self::Failed(answer) => answer.status != 400,
            _ => false,
        }
    }

    /// What the error is about and how long requests pause, in the provider's time (source: the provider's list of
    /// errors). A 403 without a code counts as an error about the address, because firewalls send such answers.
    #[must_use]
    pub fn concern(&self) -> Concern {
        /// The provider's lockout of 15 minutes, plus one minute because clocks differ.
        const LOCKED_OUT: Duration = Duration::from_mins(16);
        const REFUSED: Duration = Duration::from_mins(15);
        // Shortest pause. With "Retry-After: 0" the workers would otherwise send requests without a pause.
        const SHORTEST: Duration = Duration::from_secs(1);
        const LONGEST: Duration = Duration::from_hours(1);
        const SHORT: Duration = Duration::from_secs(10);
        match self {
            Self::NotFound(_) => Concern::UnknownOrder,
            Self::Unauthorized(_) => Concern::KeyRefused(REFUSED),
            Self::Forbidden(answer) if answer.code.as_deref() == Some("API_DISABLED") => {
                Concern::KeyRefused(REFUSED)
            }
            Self::Forbidden(answer)
                if answer
                    .code
                    .as_deref()
                    .is_none_or(|code| matches!(code, "IP_BLOCKED" | "IP_NOT_ALLOWED")) =>
            {
                Concern::Address(LOCKED_OUT)
            }
            // An undocumented 403 may be about one order. If it is about all orders, enough failures open the breaker.
            Self::Forbidden(_) => Concern::Outage,
            Self::RateLimited { retry_after, .. } => {
                Concern::KeyLimited(retry_after.unwrap_or(SHORT).clamp(SHORTEST, LONGEST))
            }
            Self::Unavailable { retry_after, .. } => {
                Concern::Provider((*retry_after).clamp(SHORTEST, LONGEST))
            }
            _ if self.says_nothing() => Concern::Outage,
            _ => Concern::Order,
        }
    }

    /// How long requests pause because of this error, in the provider's time. `None` if they do not pause.
    #[must_use]
    pub fn closes_for(&self) -> Option<Duration> {
        match self.concern() {
            Concern::KeyRefused(wait)
            | Concern::KeyLimited(wait)
            | Concern::Address(wait)
            | Concern::Provider(wait) => Some(wait),
            Concern::Order | Concern::UnknownOrder | Concern::Outage => None,
        }
    }
}

/// What an error of the provider is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// Only this request.
    Order,
    /// An order that the provider does not know. Many unknown orders suggest a fault of the key or the provider.
    UnknownOrder,
    /// There was no usable answer, so the provider may be down.
    Outage,
    /// The provider takes no requests for this long.
    Provider(Duration),
    /// The key has used up its requests and must not be used for this long.
    KeyLimited(Duration),
    /// The provider refuses the key, which must not be tried again for this long.
    KeyRefused(Duration),
    /// The provider blocks this host's IP address, which must not send requests for this long.
    Address(Duration),
}
