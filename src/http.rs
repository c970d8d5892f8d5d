//! What every HTTP client of this service shares: rustls with ring, no proxy of the environment, and a
//! cap on what is read.

use reqwest::{ClientBuilder, Response};

/// A body could not be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// It is longer than the cap; the rest was not read.
    TooLong,
    /// The connection failed.
    Http(reqwest::Error),
}

/// A client builder with this service's TLS stack.
pub(crate) fn client_builder() -> ClientBuilder {
    // Fails only where a provider is installed already, which is then this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().user_agent(concat!("topup-worker/", env!("CARGO_PKG_VERSION")))
}

/// Reads a body up to `most` bytes.
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
