//! What can come instead of an order, and what it means for asking again.

use std::fmt;
use std::time::Duration;

/// What is known of an answer that was no order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `error.code`, if the body had one.
    pub code: Option<String>,
    /// `requestId`, for the provider's support.
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

/// The provider did not answer with an order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The provider does not know the order: 404 with the code `NOT_FOUND`. A 404 of a router is no such
    /// answer: it says nothing about the order.
    #[error("the provider does not know this order: {0}")]
    NotFound(Answer),
    /// 401: the key is missing or wrong. Five of these lock the address out for 15 minutes.
    #[error("the provider refuses the key: {0}")]
    Unauthorized(Answer),
    /// 403: the address is blocked or not allowed (`IP_BLOCKED`, `IP_NOT_ALLOWED`), or the API is disabled for the
    /// account of the key (`API_DISABLED`).
    #[error("the provider refuses this address or account: {0}")]
    Forbidden(Answer),
    /// 403 to a page of the list that names neither the address nor the account: the key may not read the list.
    #[error("the provider refuses the list of orders: {0}")]
    ListForbidden(Answer),
    /// 429: too many requests.
    #[error("the provider's rate limit is reached: {answer}")]
    RateLimited {
        /// The answer.
        answer: Answer,
        /// `Retry-After`, usually absent.
        retry_after: Option<Duration>,
    },
    /// 503 with `Retry-After`.
    #[error("the provider is unavailable for a while: {answer}")]
    Unavailable {
        /// The answer.
        answer: Answer,
        /// `Retry-After`.
        retry_after: Duration,
    },
    /// Any other status that is not 200.
    #[error("the provider failed: {0}")]
    Failed(Answer),
    /// 200 with a body that is not what was asked for in the documented envelope.
    #[error("the provider's answer cannot be read: {what} ({answer})")]
    Unreadable {
        /// The answer.
        answer: Answer,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The connection failed or broke.
    #[error("the connection to the provider failed: {0}")]
    Connection(&'static str),
    /// No answer in time.
    #[error("the provider did not answer in time")]
    TimedOut,
}

/// What came of a request, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// What was asked for, or that there is no such order.
    Usable,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 429.
    RateLimited,
    /// 503 with `Retry-After`.
    Unavailable,
    /// Anything else: no connection, no answer in time, or one that cannot be used.
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

    /// What came of a request that was answered, or ended in this error.
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

    /// The word.
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
    /// Whether it is no answer of the documented kind: the API may be down, or something else answers for it.
    #[must_use]
    pub fn says_nothing(&self) -> bool {
        match self {
            Self::Connection(_) | Self::TimedOut | Self::Unreadable { .. } => true,
            // The one status that is documented for something else than a failure.
            Self::Failed(answer) => answer.status != 400,
            _ => false,
        }
    }

    /// What the answer says something about, and for how long, in the provider's time. Source: the provider's list of
    /// errors; a 403 without a code it documents is taken to be about the address, since a firewall answers so.
    #[must_use]
    pub fn concern(&self) -> Concern {
        /// A lockout, and the time in which a clock that differs could make the next request fall into it.
        const LOCKED_OUT: Duration = Duration::from_mins(16);
        const REFUSED: Duration = Duration::from_mins(15);
        // "Retry after 0" must not have every worker ask again and again without a pause.
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
            // Of an order alone, for all that is known; if it is of all, all fail.
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

    /// For how long no more requests are made because of this error, in the provider's time.
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

/// What an error of the provider says something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concern {
    /// The request alone.
    Order,
    /// The order, which the provider does not know; or the key or the provider, where many orders are unknown.
    UnknownOrder,
    /// Nothing: there was no usable answer, and the provider may be down.
    Outage,
    /// The provider, which takes no requests for this long.
    Provider(Duration),
    /// The key, which has used up its requests for this long.
    KeyLimited(Duration),
    /// The key, which is refused and must not be tried again for this long.
    KeyRefused(Duration),
    /// The address that this host asks from, which must not ask for this long.
    Address(Duration),
}
