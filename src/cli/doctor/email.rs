//! Checks that the mail server accepts this program's login. The check greets the server, asks for STARTTLS and logs
//! in. It names no sender or recipient and sends no mail.

use super::limited;
use super::report::Check;
use crate::notify::EmailConfig;

const NAME: &str = "email";

pub(super) async fn look(email: Option<EmailConfig>) -> Check {
    let Some(email) = email else {
        return Check::ok(NAME, "not set: no mail is sent");
    };
    limited(NAME, async { judge(email.server.greet().await, email.operator.is_empty()) }).await
}

/// Turns the answer of the mail server into a finding. `Ok` holds whether the connection is encrypted.
fn judge(answer: Result<bool, String>, only_customers: bool) -> Check {
    const NOT_TOLD: &str = "(no mail was sent)";
    match answer {
        Ok(true) => {
            let whom = if only_customers { "customers" } else { "customers and the operator" };
            Check::ok(NAME, format!("the mail server is ready for mails to {whom} {NOT_TOLD}"))
        }
        Ok(false) => Check::warn(
            NAME,
            format!("the mail server answers, but mails and the login would travel without TLS {NOT_TOLD}"),
            "use a server with STARTTLS or an smtps:// address, and remove ALLOW_INSECURE_SMTP",
        ),
        Err(why) => Check::fail(
            NAME,
            format!("the mail server cannot be used: {why} {NOT_TOLD}"),
            "check SMTP_URL (host, port, user and password), SMTP_CA_FILE if the server has an authority of its \
             own, and that this host may connect to it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict::{Fail, Ok as Fine, Warn};
    use super::*;

    #[tokio::test]
    async fn a_server_must_let_in_and_encrypt() {
        for (answer, verdict) in [(Ok(true), Fine), (Ok(false), Warn), (Err("SMTP 535".to_owned()), Fail)] {
            let check = judge(answer, false);
            assert_eq!(check.verdict, verdict);
            assert!(check.found.contains("no mail was sent"), "{check:?}");
        }
        assert_eq!(look(None).await.verdict, Fine);
    }
}
