//! Why a reading of the list ended early, and what that means for list polling.

use std::time::Duration;

use crate::orders::StoreError;
use crate::provider::{ApiError, Concern};

/// Added to the usual pause of list polling if the list is forbidden, as only a change of the merchant's account helps.
const REFUSED: Duration = Duration::from_hours(24);

#[derive(Debug, thiserror::Error)]
pub(super) enum ListingError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Redis did not answer")]
    Redis(#[from] redis::RedisError),
    #[error(transparent)]
    Provider(#[from] ApiError),
    #[error("the list was not read to its end: no request is permitted soon, or the worker is stopping")]
    GivenUp,
}

impl ListingError {
    /// Whether the provider refuses the list for a reason other than the key or the rate limit: the list is forbidden,
    /// or the provider is unavailable (503 with `Retry-After`).
    pub(super) fn refuses_the_list(&self) -> bool {
        matches!(self, Self::Provider(ApiError::ListForbidden(_) | ApiError::Unavailable { .. }))
    }

    /// Whether the list is not to blame: this worker's key, address, database or Redis is, or the reading was given up.
    pub(super) fn is_no_fault_of_the_list(&self) -> bool {
        match self {
            Self::Provider(error) => matches!(
                error.concern(),
                Concern::KeyRefused(_) | Concern::KeyLimited(_) | Concern::Address(_)
            ),
            Self::GivenUp | Self::Store(_) | Self::Redis(_) => true,
        }
    }

    /// Time added to the usual pause of list polling: a day if the list is forbidden, else as long as requests pause.
    pub(super) fn disables_longer(&self) -> Duration {
        match self {
            Self::Provider(ApiError::ListForbidden(_)) => REFUSED,
            Self::Provider(error) => error.closes_for().unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_list_is_disabled_for_a_day() {
        let refused = |error| {
            let error = ListingError::Provider(error);
            (error.refuses_the_list(), error.disables_longer())
        };
        let answer = crate::provider::Answer::default;
        assert_eq!(refused(ApiError::ListForbidden(answer())), (true, Duration::from_hours(24)));
        let limited = ApiError::RateLimited { answer: answer(), retry_after: None };
        assert_eq!(refused(limited), (false, Duration::from_secs(10)));
    }

    #[test]
    fn a_refused_key_or_address_is_no_fault_of_the_list() {
        let answer =
            |code: &str| crate::provider::Answer { code: Some(code.to_owned()), ..Default::default() };
        for (error, innocent) in [
            (ApiError::Unauthorized(answer("ERR_AUTH")), true),
            (ApiError::Forbidden(answer("IP_BLOCKED")), true),
            (ApiError::Forbidden(answer("API_DISABLED")), true),
            (ApiError::ListForbidden(answer("ERR_SCOPE")), false),
            (ApiError::Failed(answer("INTERNAL_ERROR")), false),
        ] {
            let error = ListingError::Provider(error);
            assert_eq!(error.is_no_fault_of_the_list(), innocent, "{error}");
        }
        assert!(ListingError::GivenUp.is_no_fault_of_the_list());
    }
}
