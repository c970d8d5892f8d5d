//! The HTTP client of all webhooks, protected against server-side request forgery (SSRF).
//!
//! The guard checks addresses inside the client's DNS resolver. The client connects only to checked addresses, so a
//! later DNS answer cannot replace a public address with a private one. A literal address in a URL is not resolved, so
//! it is checked before the request. Redirects and proxies are off, because both would connect to unchecked addresses.
//!
//! Only the status line and the headers are read. The body is ignored, so a receiver cannot keep the worker reading.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, StatusCode};
use url::Url;

use super::SendError;
use super::ssrf_guard::{Blocked, SsrfGuard};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of a request. Standard Webhooks recommends 15 to 30 seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A DNS resolver.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// Resolves a name to its addresses.
    ///
    /// # Errors
    /// `io::Error` if the name has no address or no name server answers.
    async fn lookup(&self, name: &str) -> std::io::Result<Vec<IpAddr>>;
}

/// The DNS resolver of the operating system.
#[derive(Debug, Clone, Copy)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|found| found.ip()).collect())
    }
}

/// Sends requests to the addresses that its guard allows.
#[derive(Clone)]
pub struct Sender {
    http: reqwest::Client,
    guard: SsrfGuard,
}

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The guard blocks the address.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// No connection, or no answer in time. The text does not contain the address.
    #[error("{0}")]
    Unavailable(&'static str),
}

impl From<NoAnswer> for SendError {
    fn from(none: NoAnswer) -> Self {
        match none {
            NoAnswer::Blocked(why) => Self::Failed { what: why.to_string(), retry_after: None },
            NoAnswer::Unavailable(why) => Self::Unavailable(why.to_owned()),
        }
    }
}

impl Sender {
    /// A sender that uses the system's resolver.
    ///
    /// # Errors
    /// `reqwest::Error` if the HTTP stack cannot be set up.
    pub fn new(guard: SsrfGuard) -> Result<Self, reqwest::Error> {
        Self::resolving(guard, Arc::new(SystemLookup))
    }

    /// A sender that uses this resolver.
    ///
    /// # Errors
    /// `reqwest::Error` if the HTTP stack cannot be set up.
    pub fn resolving(guard: SsrfGuard, lookup: Arc<dyn Lookup>) -> Result<Self, reqwest::Error> {
        let http = crate::http::client_builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(GuardedResolver { lookup, guard: guard.clone() }))
            .build()?;
        Ok(Self { http, guard })
    }

    /// Sends a body and returns the status and the headers of the answer.
    ///
    /// # Errors
    /// [`NoAnswer`] if the guard blocks the address or no answer came.
    pub async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<(StatusCode, HeaderMap), NoAnswer> {
        self.send(url, self.http.post(url.clone()).headers(headers).body(body)).await
    }

    /// Sends `HEAD`, without event or signature, and returns the status; any status proves that the receiver answers.
    ///
    /// # Errors
    /// [`NoAnswer`] if the guard blocks the address or no answer came.
    pub async fn greet(&self, url: &Url) -> Result<u16, NoAnswer> {
        let (status, _) = self.send(url, self.http.head(url.clone())).await?;
        Ok(status.as_u16())
    }

    async fn send(&self, url: &Url, request: RequestBuilder) -> Result<(StatusCode, HeaderMap), NoAnswer> {
        self.guard.check_url(url)?;
        let answer = request.send().await.map_err(|error| classify(&error))?;
        Ok((answer.status(), answer.headers().clone()))
    }
}

/// Classifies an error of the HTTP stack. The error's own text is not used, since it contains the address.
fn classify(error: &reqwest::Error) -> NoAnswer {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(refused) = error.downcast_ref::<Blocked>() {
            return NoAnswer::Blocked(refused.clone());
        }
        next = error.source();
    }
    NoAnswer::Unavailable(crate::http::no_answer(error))
}

struct GuardedResolver {
    lookup: Arc<dyn Lookup>,
    guard: SsrfGuard,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (lookup, guard) = (Arc::clone(&self.lookup), self.guard.clone());
        Box::pin(async move {
            let found = lookup.lookup(name.as_str()).await?;
            let (mut open, mut refused) = (Vec::new(), None);
            for address in found {
                match guard.check_address(address) {
                    // The connector replaces port 0 with the port of the URL.
                    Ok(()) => open.push(SocketAddr::new(address, 0)),
                    Err(why) => refused = Some(why),
                }
            }
            match refused {
                Some(why) if open.is_empty() => Err(why.into()),
                _ => Ok(Box::new(open.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
#[path = "sender_tests.rs"]
mod tests;
