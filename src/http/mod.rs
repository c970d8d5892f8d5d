//! Shared HTTP code. For clients: the TLS stack, no proxies, capped bodies, `Retry-After`, and error texts for failed
//! connections of any protocol, without addresses. For servers: [`serve`], the listener of all pages and endpoints.

mod retry_after;
mod server;

use reqwest::{ClientBuilder, Response};

pub(crate) use self::retry_after::retry_after;
pub(crate) use self::server::serve;

#[derive(Debug)]
pub(crate) enum ReadError {
    /// The body is longer than the cap; the rest was not read.
    TooLong,
    Http(reqwest::Error),
}

/// A client builder with this service's TLS stack and user agent, without proxies.
pub(crate) fn client_builder() -> ClientBuilder {
    crate::tls::use_ring();
    reqwest::Client::builder().no_proxy().user_agent(concat!("topup-worker/", env!("CARGO_PKG_VERSION")))
}

/// Reads a body of at most `most` bytes; a longer one is [`ReadError::TooLong`].
pub(crate) async fn read_capped(mut response: Response, most: usize) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(ReadError::Http)? {
        if body.len() + chunk.len() > most {
            return Err(ReadError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Why a request got no answer. The error's own text is not returned, since it contains the address.
pub(crate) fn no_answer(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        no_connection(error)
    } else {
        "the connection broke off"
    }
}

/// Why a connection failed. The error's own text is not returned, since it contains the address.
pub(crate) fn no_connection(error: &(dyn std::error::Error + 'static)) -> &'static str {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref() {
            return no_tls(tls);
        }
        // The text may contain the host, so it is only matched and never logged.
        let words = error.to_string();
        if words.starts_with("dns error") || words.starts_with("failed to lookup address") {
            return "its name cannot be resolved";
        }
        let io = error.downcast_ref::<std::io::Error>();
        match io.map(std::io::Error::kind) {
            Some(std::io::ErrorKind::ConnectionRefused) => return "the connection was refused",
            Some(std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::HostUnreachable) => {
                return "no route to the host";
            }
            _ => {}
        }
        // `source()` of an I/O error skips the error that it wraps, so `get_ref` is used.
        next = match io.and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    "no connection"
}

fn no_tls(error: &rustls::Error) -> &'static str {
    use rustls::CertificateError as Wrong;
    match error {
        rustls::Error::InvalidCertificate(wrong) => match wrong {
            Wrong::Expired | Wrong::ExpiredContext { .. } => "its certificate has expired",
            Wrong::NotValidYet | Wrong::NotValidYetContext { .. } => "its certificate is not valid yet",
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            Wrong::UnknownIssuer => "its certificate comes from an unknown authority",
            _ => "its certificate is not valid",
        },
        _ => "no TLS connection came about",
    }
}
