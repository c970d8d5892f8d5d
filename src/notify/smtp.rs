//! The SMTP client: one connection for each mail; errors name the step at which they occurred.
//!
//! A `5xx` about the recipient's address or mailbox ends the attempts. A `5xx` about the login, the sender or the
//! server's policy is retried, since the operator can correct it. The server's text may quote addresses, so it is never
//! logged; only its status codes are read.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use tokio::time::timeout;

use super::SendError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of connecting and of sending, each. It is long, because servers delay greetings and scan mails.
const STAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for QUIT. It is short, because the mail is accepted or refused before QUIT is sent.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// When the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte: `smtps://`.
    Always,
    /// STARTTLS before login and mail: `smtp://`.
    StartTls,
    /// STARTTLS only if the server offers it; for tests.
    WhereOffered,
}

/// A mail server, with the settings of the connection to it.
#[derive(Clone)]
pub struct MailServer {
    host: String,
    port: u16,
    security: Security,
    login: Option<Credentials>,
    tls: TlsParameters,
    hello: ClientId,
}

impl MailServer {
    /// The server's key in the bulkhead; never logged.
    pub(super) fn name(&self) -> String {
        format!("smtp://{}:{}", self.host, self.port)
    }

    /// Stores the settings; does not connect. `authorities` (PEM) replace the system's roots. EHLO sends `domain`.
    ///
    /// # Errors
    /// The TLS stack's `Error` for invalid authorities or an invalid host.
    pub fn new(
        (host, port): (&str, u16),
        security: Security,
        login: Option<(String, String)>,
        authorities: Option<&[u8]>,
        domain: &str,
    ) -> Result<Self, Error> {
        crate::tls::use_ring();
        let mut tls = TlsParameters::builder(host.to_owned());
        if let Some(pem) = authorities {
            tls = tls
                .certificate_store(CertificateStore::None)
                .add_root_certificate(Certificate::from_pem(pem)?);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            security,
            login: login.map(|(user, password)| Credentials::new(user, password)),
            tls: tls.build()?,
            hello: ClientId::Domain(domain.to_owned()),
        })
    }

    /// Connects, encrypts and logs in, but sends no mail. Returns whether the connection is encrypted.
    ///
    /// # Errors
    /// The failed step in words, without the address.
    pub async fn greet(&self) -> Result<bool, String> {
        let mut server = self.reach().await.map_err(|error| error.to_string())?;
        let encrypted = server.is_encrypted();
        part(&mut server).await;
        Ok(encrypted)
    }

    /// Sends a mail. `Ok` only once the server has accepted it.
    pub(super) async fn send(&self, envelope: &Envelope, mail: &[u8]) -> Result<(), SendError> {
        let mut server = self.reach().await?;
        let sent = timeout(STAGE_TIMEOUT, deliver(&mut server, envelope, mail)).await;
        part(&mut server).await;
        sent.unwrap_or_else(|_elapsed| Err(no_answer()))
    }

    async fn reach(&self) -> Result<AsyncSmtpConnection, SendError> {
        timeout(STAGE_TIMEOUT, self.connect()).await.unwrap_or_else(|_elapsed| Err(no_answer()))
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, SendError> {
        let at_once = (self.security == Security::Always).then(|| self.tls.clone());
        let address = (self.host.as_str(), self.port);
        let mut server =
            AsyncSmtpConnection::connect_tokio1(address, Some(CONNECT_TIMEOUT), &self.hello, at_once, None)
                .await
                .map_err(|error| judge(Step::Greeting, &error))?;
        let encrypt = match self.security {
            Security::Always => false,
            Security::StartTls => true,
            Security::WhereOffered => server.can_starttls(),
        };
        if encrypt {
            if !server.can_starttls() {
                part(&mut server).await;
                return Err(failed("the mail server offers no STARTTLS"));
            }
            let encrypted = server.starttls(self.tls.clone(), &self.hello).await;
            encrypted.map_err(|error| judge(Step::Encryption, &error))?;
        }
        if let Some(login) = &self.login {
            let accepted = server.auth(DEFAULT_MECHANISMS, login).await;
            accepted.map_err(|error| judge(Step::Login, &error))?;
        }
        Ok(server)
    }
}

impl fmt::Debug for MailServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailServer").field("security", &self.security).finish_non_exhaustive()
    }
}

/// Runs the SMTP commands for sender, recipients and content. Sends the mail if one of the recipients is accepted.
async fn deliver(
    server: &mut AsyncSmtpConnection,
    envelope: &Envelope,
    mail: &[u8],
) -> Result<(), SendError> {
    let mut parameters = Vec::new();
    let addresses = envelope.from().into_iter().chain(envelope.to());
    if addresses.map(AsRef::<str>::as_ref).any(|address| !address.is_ascii()) {
        if !server.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(SendError::Refused("the mail server accepts only ASCII addresses".to_owned()));
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    let sender = Mail::new(envelope.from().cloned(), parameters);
    server.command(sender).await.map_err(|error| judge(Step::Sender, &error))?;
    let (mut taken, mut refused) = (0, None);
    for recipient in envelope.to() {
        match server.command(Rcpt::new(recipient.clone(), Vec::new())).await {
            Ok(_) => taken += 1,
            Err(error) if error.status().is_some() => refused = Some(judge(Step::Recipient, &error)),
            Err(error) => return Err(judge(Step::Recipient, &error)),
        }
    }
    match refused {
        Some(error) if taken == 0 => return Err(error),
        Some(error) => tracing::warn!(%error, "the mail server refused a recipient; sending to the others"),
        None => {}
    }
    server.command(Data).await.map_err(|error| judge(Step::Content, &error))?;
    server.message(mail).await.map_err(|error| judge(Step::Content, &error))?;
    Ok(())
}

/// Closes the connection, after QUIT if it still works. An error is ignored: the mail is accepted or refused by then.
async fn part(server: &mut AsyncSmtpConnection) {
    let _ = timeout(FAREWELL_TIMEOUT, server.abort()).await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Greeting,
    Encryption,
    Login,
    Sender,
    Recipient,
    Content,
}

impl Step {
    const fn words(self) -> &'static str {
        match self {
            Self::Greeting => "the greeting",
            Self::Encryption => "STARTTLS",
            Self::Login => "the login",
            Self::Sender => "the sender",
            Self::Recipient => "the recipient",
            Self::Content => "the mail",
        }
    }
}

/// Decides whether a mail is retried after this error.
fn judge(step: Step, error: &Error) -> SendError {
    let Some(code) = error.status() else {
        return if step == Step::Login && error.is_client() {
            failed("the mail server offers no supported login mechanism")
        } else if error.is_timeout() {
            no_answer()
        } else {
            SendError::Unavailable(crate::http::no_connection(error).to_owned())
        };
    };
    let code = code.to_string();
    let what = format!("SMTP {code} to {}", step.words());
    let for_good = error.is_permanent() && matches!(step, Step::Recipient | Step::Content);
    // The server's text may begin with an enhanced status code (RFC 3463).
    let words = error.source().map(ToString::to_string).unwrap_or_default();
    if for_good && is_about_recipient(&code, &words) { SendError::Refused(what) } else { failed(&what) }
}

/// Whether a permanent refusal is about the recipient, not about the sender, the login or the server's policy.
fn is_about_recipient(code: &str, words: &str) -> bool {
    let mut enhanced = words.split_whitespace().next().unwrap_or_default().split('.');
    match (enhanced.next(), enhanced.next(), enhanced.next()) {
        // 5.1.7 and 5.1.8 are about the sender's address.
        (Some("5"), Some("1"), Some("7" | "8")) => false,
        (Some("5"), Some(subject), Some(_)) => matches!(subject, "1" | "2"),
        _ => matches!(code, "550" | "551" | "552" | "553"),
    }
}

fn failed(what: &str) -> SendError {
    SendError::Failed { what: what.to_owned(), retry_after: None }
}

fn no_answer() -> SendError {
    SendError::Unavailable("no answer in time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_code_decides_whether_a_refusal_is_about_the_recipient() {
        for (code, words, expected) in [
            ("550", "5.1.1 <x@y.dz>: user unknown", true),
            ("550", "No such user here", true),
            ("552", "5.2.2 mailbox full", true),
            ("553", "mailbox name not allowed", true),
            ("550", "5.1.10 null MX", true),
            ("553", "5.1.7 <a@shop.example>: bad sender", false),
            ("550", "5.1.8 sender's domain does not exist", false),
            ("550", "5.7.1 relaying denied", false),
            ("550", "5.7.26 this mail is unauthenticated", false),
            ("554", "5.7.1 <x@y.dz>: Relay access denied", false),
            ("554", "transaction failed", false),
            ("530", "5.7.0 authentication required", false),
            ("550", "5.1", true),
        ] {
            assert_eq!(is_about_recipient(code, words), expected, "{code} {words}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_unavailable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let server =
            MailServer::new(("127.0.0.1", port), Security::StartTls, None, None, "shop.example").unwrap();
        let envelope =
            Envelope::new(Some("a@shop.example".parse().unwrap()), vec!["b@c.example".parse().unwrap()]);
        let sent = server.send(&envelope.unwrap(), b"").await;
        assert_eq!(sent, Err(SendError::Unavailable("the connection was refused".to_owned())));
    }

    #[test]
    fn debug_shows_neither_login_nor_host() {
        let login = Some(("shop".to_owned(), "password-of-mine".to_owned()));
        let server =
            MailServer::new(("mail.example", 587), Security::StartTls, login, None, "shop.example").unwrap();
        assert_eq!(format!("{server:?}"), "MailServer { security: StartTls, .. }");
    }
}
