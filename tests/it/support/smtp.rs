//! A mail server that records all mails. It supports EHLO, STARTTLS and AUTH, and a test can set the answer to each
//! command. It implements the part of RFC 5321 that a client needs, and answers 503 to commands out of sequence.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Login that the server accepts.
pub(crate) const USER: &str = "shop";
pub(crate) const PASSWORD: &str = "smtp-password-of-mine";
/// `\0shop\0smtp-password-of-mine` in base64, as AUTH PLAIN carries it.
const PLAIN: &str = "AHNob3AAc210cC1wYXNzd29yZC1vZi1taW5l";

const GREETING: &str = "220 mail.example ESMTP";

/// One recorded mail.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    /// Headers and parts as received.
    pub(crate) bytes: String,
    pub(crate) encrypted: bool,
    pub(crate) authenticated: bool,
}

impl Mail {
    /// Value of a header, unfolded.
    pub(crate) fn header(&self, name: &str) -> String {
        let headers = self.bytes.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n ", " ");
        let line =
            headers.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        line.unwrap_or_default()
    }
}

/// Features of a mail server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Offer {
    /// TLS from the start of the connection.
    pub(crate) smtps: bool,
    /// TLS after STARTTLS.
    pub(crate) starttls: bool,
    /// Mails are accepted only after a login.
    pub(crate) auth: bool,
}

/// The mail server.
#[derive(Clone)]
pub(crate) struct MailSink {
    offer: Offer,
    tls: TlsAcceptor,
    /// Self-signed certificate in PEM, for `SMTP_CA_FILE`.
    pub(crate) certificate: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    mails: Vec<Mail>,
    /// Commands and the answers to them, in the sequence in which they are used.
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
                tokio::spawn(async move { sink.serve(stream).await });
            }
        });
        port
    }

    /// Sets the answers to the next commands of these names; `.` is the end of a mail.
    pub(crate) fn answer_first(&self, answers: impl IntoIterator<Item = (&'static str, &'static str)>) {
        self.state().answers.extend(answers);
    }

    pub(crate) fn mails(&self) -> Vec<Mail> {
        self.state().mails.clone()
    }

    /// Names of all commands so far.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.state().commands.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut session = Session {
            sink: self,
            encrypted: self.offer.smtps,
            authenticated: false,
            from: None,
            to: Vec::new(),
        };
        if self.offer.smtps {
            let mut stream = BufReader::new(self.tls.accept(stream).await.ok()?);
            send(&mut stream, GREETING).await?;
            session.until_starttls_or_end(&mut stream).await?;
            return Some(());
        }
        let mut stream = BufReader::new(stream);
        send(&mut stream, GREETING).await?;
        if session.until_starttls_or_end(&mut stream).await? {
            let stream = self.tls.accept(stream.into_inner()).await.ok()?;
            session.encrypted = true;
            session.until_starttls_or_end(&mut BufReader::new(stream)).await?;
        }
        Some(())
    }
}

/// State of the session with one client.
struct Session<'a> {
    sink: &'a MailSink,
    encrypted: bool,
    authenticated: bool,
    from: Option<String>,
    to: Vec<String>,
}

impl Session<'_> {
    /// Answers commands until STARTTLS (true) or QUIT (false). None if the client disconnected.
    async fn until_starttls_or_end<S>(&mut self, stream: &mut S) -> Option<bool>
    where
        S: AsyncBufReadExt + AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let line = read_line(stream).await?;
            let word = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            self.sink.state().commands.push(word.clone());
            if let Some(answer) = self.next_answer(&word) {
                send(stream, answer).await?;
                continue;
            }
            match word.as_str() {
                "EHLO" => {
                    let starttls =
                        if self.sink.offer.starttls && !self.encrypted { "250-STARTTLS\r\n" } else { "" };
                    let auth = if self.sink.offer.auth { "250-AUTH PLAIN\r\n" } else { "" };
                    send(stream, &format!("250-mail.example\r\n{starttls}{auth}250 8BITMIME")).await?;
                }
                "STARTTLS" if self.sink.offer.starttls && !self.encrypted => {
                    send(stream, "220 go ahead").await?;
                    return Some(true);
                }
                "AUTH" => {
                    self.authenticated = line == format!("AUTH PLAIN {PLAIN}");
                    let answer =
                        if self.authenticated { "235 2.7.0 welcome" } else { "535 5.7.8 wrong password" };
                    send(stream, answer).await?;
                }
                "MAIL" if self.sink.offer.auth && !self.authenticated => {
                    send(stream, "530 5.7.0 authentication required").await?;
                }
                "MAIL" => {
                    self.from = address(&line);
                    send(stream, "250 2.1.0 ok").await?;
                }
                "RCPT" if self.from.is_some() => {
                    self.to.extend(address(&line));
                    send(stream, "250 2.1.5 ok").await?;
                }
                "DATA" if !self.to.is_empty() => {
                    send(stream, "354 go on").await?;
                    self.receive_mail(stream).await?;
                }
                "QUIT" => {
                    send(stream, "221 bye").await?;
                    return Some(false);
                }
                _ => send(stream, "503 5.5.1 out of turn").await?,
            }
        }
    }

    fn next_answer(&self, word: &str) -> Option<&'static str> {
        let mut state = self.sink.state();
        let next = state.answers.front().is_some_and(|(command, _)| *command == word);
        if next { state.answers.pop_front().map(|(_, answer)| answer) } else { None }
    }

    async fn receive_mail<S>(&mut self, stream: &mut S) -> Option<()>
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
        let answer = self.next_answer(".");
        self.sink.state().mails.push(mail);
        send(stream, answer.unwrap_or("250 2.0.0 taken")).await
    }
}

/// Text between the angle brackets.
fn address(line: &str) -> Option<String> {
    Some(line.split_once('<')?.1.split_once('>')?.0.to_owned())
}

async fn read_line(stream: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await.ok()?;
    (read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), answer: &str) -> Option<()> {
    stream.write_all(format!("{answer}\r\n").as_bytes()).await.ok()?;
    stream.flush().await.ok()
}
