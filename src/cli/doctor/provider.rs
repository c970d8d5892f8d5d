//! Checks that the provider accepts the API key. The check sends one request at most, because five refusals block this
//! host's address, and so its workers, for 15 minutes. While a breaker pauses the workers' requests, it sends none.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

use super::limited;
use super::report::{Check, in_words};
use crate::provider::{ApiError, Client, KeyFingerprint, TopupApi as _};
use crate::redis::Names;

const NAME: &str = "provider";

/// Sends the request, unless a breaker in Redis pauses requests with this API key. Without Redis, the request is sent.
pub(super) async fn look(
    client: &Client,
    key: &KeyFingerprint,
    redis: Option<(&MultiplexedConnection, &Names)>,
) -> Check {
    limited(NAME, async {
        if let Some((connection, names)) = redis
            && let Some(left) = closed_for(connection, names, key).await
        {
            return Check::warn(
                NAME,
                format!("not contacted: the workers send no request with this key for another {}", in_words(left)),
                "a 401, 403, 429 or 503 of the provider, or many failures, stopped all requests; the log of the \
                 workers names the cause. Wait, or remove the cause and wait",
            );
        }
        let asked = Instant::now();
        let answer = client.verify().await;
        judge(answer, asked.elapsed())
    })
    .await
}

/// Reads how long a breaker still pauses requests. Asking for a permit instead could use up the workers' test request.
async fn closed_for(
    connection: &MultiplexedConnection,
    names: &Names,
    key: &KeyFingerprint,
) -> Option<Duration> {
    let mut ask = redis::pipe();
    for breaker in names.breakers(key.as_str()) {
        ask.pttl(breaker);
    }
    let left_ms: Vec<i64> = ask.query_async(&mut connection.clone()).await.ok()?;
    let longest = left_ms.into_iter().max()?;
    u64::try_from(longest).ok().filter(|left| *left > 0).map(Duration::from_millis)
}

fn judge(answer: Result<(), ApiError>, took: Duration) -> Check {
    let Err(error) = answer else {
        return Check::ok(NAME, format!("accepts the key, answers in {}", in_words(took)));
    };
    // An `ApiError` displays status, code and request id, never a body.
    let found = error.to_string();
    let code = match &error {
        ApiError::Forbidden(answer) | ApiError::Failed(answer) => answer.code.as_deref(),
        _ => None,
    };
    let advice = match (&error, code) {
        (ApiError::Unauthorized(_), _) => {
            "set ONECLICKDZ_API_KEY as the provider's dashboard shows it. Each refusal counts: five block this \
             address for 15 min, so correct it before you run this again"
        }
        (ApiError::Forbidden(_), Some("IP_BLOCKED")) => {
            "stop every program that uses a wrong key from this address, and wait 15 min"
        }
        (ApiError::Forbidden(_), Some("IP_NOT_ALLOWED")) => {
            "add the public address of this host to the allowed ones in the provider's dashboard"
        }
        (ApiError::Forbidden(_), Some("API_DISABLED")) => {
            "ask the provider to enable the API for this account"
        }
        (ApiError::Forbidden(_) | ApiError::ListForbidden(_), _) => {
            "check the account in the provider's dashboard, or ask the provider"
        }
        (ApiError::RateLimited { .. }, _) => {
            return Check::warn(
                NAME,
                found,
                "wait a minute; if this repeats, other programs use up the requests of this key",
            );
        }
        (ApiError::Unavailable { .. }, _) => {
            return Check::warn(NAME, found, "wait, as the workers do; the key is not the cause");
        }
        (ApiError::NotFound(_) | ApiError::Unreadable { .. }, _) => NOT_THE_API,
        (ApiError::Failed(answer), _) if answer.status < 500 => NOT_THE_API,
        (ApiError::Failed(_), _) => "wait and retry; the workers do so by themselves",
        (ApiError::Connection(_) | ApiError::TimedOut, _) => {
            "check ONECLICKDZ_API_URL and that this host may connect to it over HTTPS; proxy variables are ignored"
        }
    };
    Check::fail(NAME, found, advice)
}

const NOT_THE_API: &str = "not the provider's API: set ONECLICKDZ_API_URL to its address without /v3";

#[cfg(test)]
mod tests {
    use super::super::report::Verdict::{self, Fail, Ok as Fine, Warn};
    use super::*;
    use crate::provider::Answer;

    fn verdict(error: ApiError, words: &str) -> Verdict {
        let check = judge(Err(error), Duration::ZERO);
        let advice = check.advice.unwrap_or_default();
        assert!(advice.contains(words), "{advice}");
        check.verdict
    }

    #[test]
    fn every_answer_has_a_verdict_and_advice() {
        let answer = |status, code: &str| Answer { status, code: Some(code.to_owned()), request_id: None };
        assert_eq!(judge(Ok(()), Duration::ZERO).verdict, Fine);
        for (error, words, expected) in [
            (ApiError::Unauthorized(answer(401, "ERR_AUTH")), "ONECLICKDZ_API_KEY", Fail),
            (ApiError::Forbidden(answer(403, "IP_BLOCKED")), "wait 15 min", Fail),
            (ApiError::Forbidden(answer(403, "IP_NOT_ALLOWED")), "allowed ones", Fail),
            (ApiError::Forbidden(answer(403, "API_DISABLED")), "to enable the API", Fail),
            (ApiError::Forbidden(answer(403, "OTHER")), "dashboard", Fail),
            (
                ApiError::RateLimited { answer: answer(429, "RATE_LIMIT_EXCEEDED"), retry_after: None },
                "wait a minute",
                Warn,
            ),
            (
                ApiError::Unavailable {
                    answer: answer(503, "AUTH_UNAVAILABLE"),
                    retry_after: Duration::from_secs(5),
                },
                "the key is not the cause",
                Warn,
            ),
            (ApiError::Failed(answer(500, "INTERNAL_ERROR")), "wait and retry", Fail),
            (ApiError::Failed(Answer { status: 404, ..Answer::default() }), "without /v3", Fail),
            (ApiError::Failed(Answer { status: 301, ..Answer::default() }), "without /v3", Fail),
            (ApiError::Unreadable { answer: Answer::default(), what: "it is HTML" }, "without /v3", Fail),
            (ApiError::Connection("the connection was refused"), "ONECLICKDZ_API_URL", Fail),
            (ApiError::TimedOut, "ONECLICKDZ_API_URL", Fail),
        ] {
            assert_eq!(verdict(error, words), expected, "{words}");
        }
    }
}
