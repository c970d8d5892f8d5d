//! Checks that the webhook receivers answer a `HEAD` request over the HTTP stack that sends events; no event and no
//! signature is sent. The address is never shown, because some receivers identify the sender by a token in it.

use url::{Host, Url};

use super::limited;
use super::report::Check;
use crate::notify::{Blocked, Endpoint, NoAnswer, Sender, SsrfGuard};

const MERCHANT: &str = "webhook";
const OPERATOR: &str = "operator-webhook";

/// Checks the merchant's receiver. `delivered_otherwise` means that another channel delivers cards.
pub(super) async fn merchant(
    endpoint: Option<Endpoint>,
    guard: &SsrfGuard,
    delivered_otherwise: bool,
) -> Check {
    let Some(endpoint) = endpoint else {
        if delivered_otherwise {
            return Check::ok(
                MERCHANT,
                "not set: cards go to customers or to the addresses that orders name, not to the merchant",
            );
        }
        return Check::warn(
            MERCHANT,
            "not set, and no other channel carries cards: they are not delivered",
            "set WEBHOOK_URL and WEBHOOK_SECRET, or EMAIL_CARD or SMS_CARD to link or code",
        );
    };
    look(MERCHANT, "WEBHOOK_URL", &endpoint.url, guard).await
}

/// Checks the operator's receiver; `notified_otherwise` means that `WEBHOOK_URL` or `OPERATOR_EMAIL` is set.
pub(super) async fn operator(
    endpoint: Option<Endpoint>,
    guard: &SsrfGuard,
    notified_otherwise: bool,
) -> Check {
    let Some(endpoint) = endpoint else {
        if !notified_otherwise {
            return Check::warn(
                OPERATOR,
                "not set, and neither WEBHOOK_URL nor OPERATOR_EMAIL is: no channel reports orders that need a person, \
                 or notifications that do not arrive",
                "set OPERATOR_WEBHOOK_URL and OPERATOR_WEBHOOK_SECRET, or OPERATOR_EMAIL",
            );
        }
        return Check::ok(
            OPERATOR,
            "not set: orders that need a person are reported to WEBHOOK_URL and OPERATOR_EMAIL, where these are set",
        );
    };
    look(OPERATOR, "OPERATOR_WEBHOOK_URL", &endpoint.url, guard).await
}

async fn look(name: &'static str, setting: &str, url: &Url, guard: &SsrfGuard) -> Check {
    let Ok(sender) = Sender::new(guard.clone()) else {
        return Check::fail(
            name,
            "the HTTP stack cannot be set up",
            "check the certificates of this machine",
        );
    };
    limited(name, async { judge(name, setting, is_exposed(url), sender.greet(url).await) }).await
}

/// Whether requests to this address would cross a network without TLS.
pub(super) fn is_exposed(url: &Url) -> bool {
    let at_home = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() != "https" && !at_home
}

fn judge(name: &'static str, setting: &str, exposed: bool, answer: Result<u16, NoAnswer>) -> Check {
    const NOT_TOLD: &str = "(no event was sent)";
    match answer {
        Err(NoAnswer::Blocked(why)) => {
            let advice = match why {
                Blocked::Special(_) => format!(
                    "if {setting} is meant to lead there, name its network in WEBHOOK_ALLOWED_NETWORKS; if not, \
                     check what the name resolves to on this host"
                ),
                _ => format!("set {setting} to a public https:// address, and check how its name resolves"),
            };
            Check::fail(name, format!("is not contacted: {why} {NOT_TOLD}"), advice)
        }
        Err(NoAnswer::Unavailable(why)) => Check::fail(
            name,
            format!("does not answer: {why} {NOT_TOLD}"),
            format!(
                "check {setting}, the receiver and its certificate, and that this host may connect to it"
            ),
        ),
        Ok(status @ 300..400) => Check::warn(
            name,
            format!("answers with a redirect, HTTP {status} {NOT_TOLD}"),
            format!("redirects are not followed: set {setting} to the address in the redirect"),
        ),
        Ok(status @ 500..) if status != 501 => Check::warn(
            name,
            format!("answers with HTTP {status} {NOT_TOLD}"),
            "the server answers, its application does not; check the application's log",
        ),
        Ok(_) if exposed => Check::warn(
            name,
            format!("answers, but card codes would travel without TLS {NOT_TOLD}"),
            format!("set {setting} to an https:// address and remove ALLOW_INSECURE_WEBHOOKS"),
        ),
        // Any other status is ok, because a receiver that accepts only POST answers HEAD with 404 or 405.
        Ok(status) => Check::ok(name, format!("answers a greeting with HTTP {status} {NOT_TOLD}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict::{self, Fail, Ok as Fine, Warn};
    use super::*;

    #[test]
    fn any_answer_except_a_redirect_or_a_server_error_is_fine() {
        let verdict = |answer| judge(MERCHANT, "WEBHOOK_URL", false, answer);
        for (status, expected) in
            [(200, Fine), (404, Fine), (405, Fine), (501, Fine), (301, Warn), (502, Warn)]
        {
            let check = verdict(Ok(status));
            assert_eq!(check.verdict, expected, "{status}");
            assert!(check.found.contains("no event was sent"), "{check:?}");
        }
        assert_eq!(verdict(Err(NoAnswer::Unavailable("no answer in time"))).verdict, Fail);
    }

    #[tokio::test]
    async fn a_blocked_address_is_reported_with_the_setting_that_allows_it() {
        let guard = SsrfGuard::default();
        let look = async |url: &str| look(MERCHANT, "WEBHOOK_URL", &url.parse().unwrap(), &guard).await;
        let inside = look("https://localhost:1/token").await;
        assert_eq!(inside.verdict, Fail);
        assert!(inside.found.starts_with("is not contacted: the address leads to"), "{inside:?}");
        assert!(inside.advice.is_some_and(|advice| advice.contains("WEBHOOK_ALLOWED_NETWORKS")));
        let metadata = look("https://169.254.169.254/").await;
        assert!(metadata.found.contains("where no webhook ever goes"), "{metadata:?}");
        assert!(metadata.advice.is_some_and(|advice| !advice.contains("WEBHOOK_ALLOWED_NETWORKS")));
    }

    #[test]
    fn only_a_receiver_on_this_machine_may_go_without_tls() {
        let exposed = |url: &str| is_exposed(&url.parse().unwrap());
        assert!(exposed("http://shop.example/"));
        assert!(exposed("http://192.0.2.1/"));
        for url in ["https://shop.example/", "http://127.0.0.1:1/", "http://localhost/", "http://[::1]/"] {
            assert!(!exposed(url), "{url}");
        }
        assert_eq!(judge(MERCHANT, "WEBHOOK_URL", true, Ok(204)).verdict, Verdict::Warn);
    }

    #[tokio::test]
    async fn a_missing_receiver_is_a_warning_unless_another_channel_is_set() {
        let guard = SsrfGuard::default();
        assert_eq!(merchant(None, &guard, false).await.verdict, Warn);
        assert_eq!(merchant(None, &guard, true).await.verdict, Fine);
        assert_eq!(operator(None, &guard, true).await.verdict, Fine);
        assert_eq!(operator(None, &guard, false).await.verdict, Warn);
    }
}
