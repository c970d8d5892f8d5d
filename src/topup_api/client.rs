//! The HTTP client of the provider.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use topup_jobs::{ProviderOrder, TopupId};
use url::Url;

use super::wire::{read_data, read_order};
use super::{ApiError, TopupApi};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the whole of one answer; the documented ones come within seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// An order has less than a kilobyte.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// A client of the provider's API with one key.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: HeaderValue,
}

/// The client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The key has characters that a header cannot carry.
    #[error(
        "ONECLICKDZ_API_KEY has characters that cannot be sent; copy it again from the provider's dashboard"
    )]
    Key,
    /// The address cannot have a path.
    #[error("ONECLICKDZ_API_URL is not an address of the form https://api.oneclickdz.com")]
    Address,
    /// TLS or the HTTP stack cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
}

impl Client {
    /// A client of the API at this address.
    ///
    /// # Errors
    /// [`ClientError`] where the key or the address is unusable.
    pub fn new(base: &Url, key: &SecretString) -> Result<Self, ClientError> {
        let mut token = HeaderValue::from_str(key.expose_secret().trim()).map_err(|_| ClientError::Key)?;
        token.set_sensitive(true);
        if base.cannot_be_a_base() {
            return Err(ClientError::Address);
        }
        let http = crate::http::client_builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(ClientError::Http)?;
        Ok(Self { http, base: base.clone(), token })
    }

    /// Asks for as little as can be asked, one row of the list of orders, to learn whether the key is
    /// accepted. One request; a key that is refused counts towards the provider's lock-out.
    ///
    /// # Errors
    /// [`ApiError`] where the answer is not that list.
    pub async fn try_key(&self) -> Result<(), ApiError> {
        let path = ["v3", "internet", "list"];
        let (status, headers, body) = self.get(&path, &[("page", "1"), ("pageSize", "1")]).await?;
        read_data(status, &headers, &body).map(drop)
    }

    async fn get(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<(u16, reqwest::header::HeaderMap, Vec<u8>), ApiError> {
        let mut url = self.base.clone();
        // Invariant: `new` refuses an address that cannot have a path.
        url.path_segments_mut().expect("the base has a path").pop_if_empty().extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.get(url).header("X-Access-Token", self.token.clone());
        let response = request.send().await.map_err(|error| classify(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = crate::http::read_capped(response, MAX_BODY_BYTES).await.map_err(|error| match error {
            crate::http::ReadError::TooLong => ApiError::Unreadable {
                answer: super::Answer { status, ..super::Answer::default() },
                what: "it is longer than 256 KiB",
            },
            crate::http::ReadError::Http(error) => classify(&error),
        })?;
        Ok((status, headers, body))
    }
}

/// The error in a few words of our own: those of the HTTP stack contain the address.
fn classify(error: &reqwest::Error) -> ApiError {
    if error.is_timeout() {
        ApiError::TimedOut
    } else if error.is_connect() {
        ApiError::Connection(crate::http::no_connection(error))
    } else if error.is_body() || error.is_decode() {
        ApiError::Connection("the answer broke off")
    } else {
        ApiError::Connection("the request broke off")
    }
}

#[async_trait]
impl TopupApi for Client {
    async fn check_id(&self, topup_id: &TopupId) -> Result<ProviderOrder, ApiError> {
        let path = ["v3", "internet", "check-id", topup_id.as_str()];
        let (status, headers, body) = self.get(&path, &[]).await?;
        read_order(status, &headers, &body, topup_id.as_str())
    }
}
