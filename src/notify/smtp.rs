//! The conversation with the mail server: one connection a mail, each step told apart.
//!
//! Whether a mail can be tried again depends on whom a refusal is about. `5xx` for the recipient, or for the
//! mail because of him, ends it; `5xx` for the login, the sender or the policy of the server is the operator's
//! to correct, and is tried again. The server's words quote addresses: they are read for their code and never
//! shown.

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
/// Servers greet late on purpose, and look at a mail before they take it.
const STAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// The mail is delivered or not by then; the farewell is a courtesy.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// When the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// From the first byte: `smtps://`.
    Always,
    /// By STARTTLS, and no word before: `smtp://`.
    StartTls,
    /// By STARTTLS where the server offers it; for tests.
    WhereOffered,
}

/// A mail server and how it is talked to.
#[derive(Clone)]
pub struct MailServer {
    host: String,
    port: u16,
    security: Security,
    login: Option<Credentials>,
    tls: TlsParameters,
    /// What this side calls itself.
    hello: ClientId,
}

impl MailServer {
    /// Its name among the endpoints that may keep a channel waiting; never shown.
    pub(super) fn name(&self) -> String {
        format!("smtp://{}:{}", self.host, self.port)
    }

    /// The server at this address; nothing connects yet. `authorities` (PEM) are trusted instead of the
    /// system's; `domain` is the sender's, and what this side calls itself.
    ///
    /// # Errors
    /// The error of the TLS stack, if it takes no such authorities or no such host.
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

    /// Connects, encrypts and logs in, sends nothing, and tells whether the connection is encrypted.
    ///
    /// # Errors
    /// Why it did not come to that, in words without the address.
    pub async fn greet(&self) -> Result<bool, String> {
        let mut server = self.reach().await.map_err(|error| error.to_string())?;
        let encrypted = server.is_encrypted();
        part(&mut server).await;
        Ok(encrypted)
    }

    /// Hands a mail over. `Ok` only when the server has taken it.
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

/// Sender, recipients, content. Of several recipients one that is taken is enough.
async fn deliver(
    server: &mut AsyncSmtpConnection,
    envelope: &Envelope,
    mail: &[u8],
) -> Result<(), SendError> {
    let mut parameters = Vec::new();
    let addresses = envelope.from().into_iter().chain(envelope.to());
    if addresses.map(AsRef::<str>::as_ref).any(|address| !address.is_ascii()) {
        if !server.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Err(SendError::Refused("the mail server takes ASCII addresses only".to_owned()));
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
        Some(error) => tracing::warn!(%error, "a mail goes to some of its recipients only"),
        None => {}
    }
    server.command(Data).await.map_err(|error| judge(Step::Content, &error))?;
    server.message(mail).await.map_err(|error| judge(Step::Content, &error))?;
    Ok(())
}

/// Says goodbye, unless the connection is broken, and closes it.
async fn part(server: &mut AsyncSmtpConnection) {
    // What comes of it changes nothing any more.
    let _ = timeout(FAREWELL_TIMEOUT, server.abort()).await;
}

/// Where in a conversation something went wrong.
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

/// What an error means for the mail.
fn judge(step: Step, error: &Error) -> SendError {
    let Some(code) = error.status() else {
        return if step == Step::Login && error.is_client() {
            failed("the mail server offers no login that is known here")
        } else if error.is_timeout() {
            no_answer()
        } else {
            SendError::Unavailable(crate::http::no_connection(error).to_owned())
        };
    };
    let code = code.to_string();
    let what = format!("SMTP {code} to {}", step.words());
    let for_good = error.is_permanent() && matches!(step, Step::Recipient | Step::Content);
    // The code of RFC 3463 at the beginning of the server's words, where it gives one.
    let words = error.source().map(ToString::to_string).unwrap_or_default();
    if for_good && is_about_recipient(&code, &words) { SendError::Refused(what) } else { failed(&what) }
}

/// Whether a permanent refusal is about the recipient's address or mailbox, and not about this sender, his
/// address, his login or the policy of the server.
fn is_about_recipient(code: &str, words: &str) -> bool {
    let mut enhanced = words.split_whitespace().next().unwrap_or_default().split('.');
    match (enhanced.next(), enhanced.next(), enhanced.next()) {
        // Of the codes about addresses these two are about the sender's.
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
    fn a_refusal_is_the_recipients_where_its_code_says_so() {
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
    async fn a_server_that_is_away_is_unavailable() {
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
