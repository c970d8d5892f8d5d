//! A mail server that remembers everything: EHLO, STARTTLS, AUTH, and one answer to order for each step.
//!
//! It speaks as much of RFC 5321 as a client needs, and answers 503 to what comes out of turn.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// The login that the server asks for.
pub(crate) const USER: &str = "shop";
pub(crate) const PASSWORD: &str = "smtp-password-of-mine";
/// `\0shop\0smtp-password-of-mine` in base64, as AUTH PLAIN carries it.
const PLAIN: &str = "AHNob3AAc210cC1wYXNzd29yZC1vZi1taW5l";

const GREETING: &str = "220 mail.example ESMTP";

/// A mail as it came.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    /// Header and parts, as they came over the line.
    pub(crate) bytes: String,
    pub(crate) encrypted: bool,
    pub(crate) authenticated: bool,
}

impl Mail {
    /// The value of a header; folded lines are one.
    pub(crate) fn header(&self, name: &str) -> String {
        let headers = self.bytes.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n ", " ");
        let line =
            headers.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        line.unwrap_or_default()
    }
}

/// How a server is set up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Offer {
    /// TLS from the first byte.
    pub(crate) smtps: bool,
    /// TLS by STARTTLS.
    pub(crate) starttls: bool,
    /// Nobody sends without having logged in.
    pub(crate) auth: bool,
}

/// The server.
#[derive(Clone)]
pub(crate) struct MailSink {
    offer: Offer,
    tls: TlsAcceptor,
    /// Its own certificate, in PEM, for `SMTP_CA_FILE`.
    pub(crate) certificate: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    mails: Vec<Mail>,
    /// What it was told to answer to the next commands of this name.
    answers: VecDeque<(&'static str, &'static str)>,
    commands: Vec<String>,
}

impl MailSink {
    pub(crate) fn new(offer: Offer) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let cert = params.self_signed(&key).expect("a certificate");
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![cert.der().clone()], private).expect("they match");
        Self {
            offer,
            tls: TlsAcceptor::from(Arc::new(config)),
            certificate: cert.pem(),
            state: Arc::default(),
        }
    }

    /// Listens on a free port and returns it.
    pub(crate) async fn listen(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let sink = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let sink = sink.clone();
                tokio::spawn(async move { sink.converse(stream).await });
            }
        });
        port
    }

    /// Answers so to the next commands of these names; `.` is the end of a mail.
    pub(crate) fn answer_first(&self, answers: impl IntoIterator<Item = (&'static str, &'static str)>) {
        self.state().answers.extend(answers);
    }

    pub(crate) fn mails(&self) -> Vec<Mail> {
        self.state().mails.clone()
    }

    /// The first words of all commands so far.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.state().commands.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn converse(&self, stream: TcpStream) -> Option<()> {
        let mut session = Session {
            sink: self,
            encrypted: self.offer.smtps,
            authenticated: false,
            from: None,
            to: Vec::new(),
        };
        if self.offer.smtps {
            let mut stream = BufReader::new(self.tls.accept(stream).await.ok()?);
            say(&mut stream, GREETING).await?;
            session.until_starttls_or_end(&mut stream).await?;
            return Some(());
        }
        let mut stream = BufReader::new(stream);
        say(&mut stream, GREETING).await?;
        if session.until_starttls_or_end(&mut stream).await? {
            let stream = self.tls.accept(stream.into_inner()).await.ok()?;
            session.encrypted = true;
            session.until_starttls_or_end(&mut BufReader::new(stream)).await?;
        }
        Some(())
    }
}

/// What one client has said so far.
struct Session<'a> {
    sink: &'a MailSink,
    encrypted: bool,
    authenticated: bool,
    from: Option<String>,
    to: Vec<String>,
}

impl Session<'_> {
    /// Whether the client wants TLS now; nothing where it went away.
    async fn until_starttls_or_end<S>(&mut self, stream: &mut S) -> Option<bool>
    where
        S: AsyncBufReadExt + AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let line = read_line(stream).await?;
            let word = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            self.sink.state().commands.push(word.clone());
            if let Some(answer) = self.ordered(&word) {
                say(stream, answer).await?;
                continue;
            }
            match word.as_str() {
                "EHLO" => {
                    let starttls =
                        if self.sink.offer.starttls && !self.encrypted { "250-STARTTLS\r\n" } else { "" };
                    let auth = if self.sink.offer.auth { "250-AUTH PLAIN\r\n" } else { "" };
                    say(stream, &format!("250-mail.example\r\n{starttls}{auth}250 8BITMIME")).await?;
                }
                "STARTTLS" if self.sink.offer.starttls && !self.encrypted => {
                    say(stream, "220 go ahead").await?;
                    return Some(true);
                }
                "AUTH" => {
                    self.authenticated = line == format!("AUTH PLAIN {PLAIN}");
                    let answer =
                        if self.authenticated { "235 2.7.0 welcome" } else { "535 5.7.8 wrong password" };
                    say(stream, answer).await?;
                }
                "MAIL" if self.sink.offer.auth && !self.authenticated => {
                    say(stream, "530 5.7.0 authentication required").await?;
                }
                "MAIL" => {
                    self.from = address(&line);
                    say(stream, "250 2.1.0 ok").await?;
                }
                "RCPT" if self.from.is_some() => {
                    self.to.extend(address(&line));
                    say(stream, "250 2.1.5 ok").await?;
                }
                "DATA" if !self.to.is_empty() => {
                    say(stream, "354 go on").await?;
                    self.take(stream).await?;
                }
                "QUIT" => {
                    say(stream, "221 bye").await?;
                    return Some(false);
                }
                _ => say(stream, "503 5.5.1 out of turn").await?,
            }
        }
    }

    fn ordered(&self, word: &str) -> Option<&'static str> {
        let mut state = self.sink.state();
        let next = state.answers.front().is_some_and(|(to, _)| *to == word);
        if next { state.answers.pop_front().map(|(_, answer)| answer) } else { None }
    }

    async fn take<S>(&mut self, stream: &mut S) -> Option<()>
    where
        S: AsyncBufReadExt + AsyncWrite + Unpin,
    {
        let mut bytes = String::new();
        loop {
            let line = read_line(stream).await?;
            if line == "." {
                break;
            }
            bytes.push_str(line.strip_prefix('.').unwrap_or(&line));
            bytes.push_str("\r\n");
        }
        let mail = Mail {
            from: self.from.take()?,
            to: std::mem::take(&mut self.to),
            bytes,
            encrypted: self.encrypted,
            authenticated: self.authenticated,
        };
        let answer = self.ordered(".");
        self.sink.state().mails.push(mail);
        say(stream, answer.unwrap_or("250 2.0.0 taken")).await
    }
}

/// What stands between the angle brackets.
fn address(line: &str) -> Option<String> {
    Some(line.split_once('<')?.1.split_once('>')?.0.to_owned())
}

async fn read_line(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await.ok()?;
    (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), answer: &str) -> Option<()> {
    stream.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
    stream.flush().await.ok()
}
