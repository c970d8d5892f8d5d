//! The one HTTP sender of all webhooks.
//!
//! The guard stands inside the connector: what a name is resolved to is judged and connected to, in one
//! step and from one answer, so that a name cannot lead to a public address when it is judged and to a
//! private one when it is connected to. For a literal address the connector resolves nothing; it is judged
//! before the request. Redirects are not followed and no proxy is asked: either would choose the address.
//!
//! Of an answer only its head counts. The status says whether the event arrived, and nothing of the body is
//! read: a receiver cannot make the worker read without end, and a body that breaks off changes nothing.

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
/// Standard Webhooks recommends 15 to 30 seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Resolves names.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// The addresses of this name.
    ///
    /// # Errors
    /// Where it has none, or no name server answers.
    async fn lookup(&self, name: &str) -> std::io::Result<Vec<IpAddr>>;
}

/// The resolver of the system.
#[derive(Debug, Clone, Copy)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|found| found.ip()).collect())
    }
}

/// Sends requests to wherever the guard lets them go.
#[derive(Clone)]
pub struct Sender {
    http: reqwest::Client,
    guard: SsrfGuard,
}

/// No answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The guard lets nothing go there.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// No answer came; in words without the address.
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
    /// A sender that asks the system for addresses.
    ///
    /// # Errors
    /// `reqwest::Error` where the HTTP stack cannot be set up.
    pub fn new(guard: SsrfGuard) -> Result<Self, reqwest::Error> {
        Self::resolving(guard, Arc::new(SystemLookup))
    }

    /// A sender that asks this lookup for addresses.
    ///
    /// # Errors
    /// `reqwest::Error` where the HTTP stack cannot be set up.
    pub fn resolving(guard: SsrfGuard, lookup: Arc<dyn Lookup>) -> Result<Self, reqwest::Error> {
        let http = crate::http::client_builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(GuardedResolver { lookup, guard: guard.clone() }))
            .build()?;
        Ok(Self { http, guard })
    }

    /// Sends a body and returns the head of the answer.
    ///
    /// # Errors
    /// [`NoAnswer`] where none came.
    pub async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<(StatusCode, HeaderMap), NoAnswer> {
        self.send(url, self.http.post(url.clone()).headers(headers).body(body)).await
    }

    /// Greets the receiver with a `HEAD` request and returns the status it answers with. That carries no
    /// event and no signature; a receiver answers as it likes to a method it has no use for.
    ///
    /// # Errors
    /// [`NoAnswer`] where none came.
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

/// Why there was no answer, in words of our own: those of the HTTP stack contain the address.
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

/// Hands the connector only addresses that the guard lets through.
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
                    // The connector puts the port of the address in the place of 0.
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
