//! The HTTP client of the provider.

use std::time::Duration;

use async_trait::async_trait;
use chrono::SecondsFormat;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use topup_jobs::{ProviderOrder, Timestamp, TopupId};
use url::Url;

use super::json::Text;
use super::list::{OrderList, PAGE_SIZE, about_the_list, read_list};
use super::running_time::RunningTime;
use super::wire::{RawAnswer, read_content, read_order};
use super::{Answer, ApiError, TopupApi};
use crate::http::ReadError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of a request, including its whole answer. The provider documents that it answers within seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Size limit of an answer to `check-id`. An order takes less than a kilobyte.
pub(super) const MAX_ORDER_BYTES: usize = 256 * 1024;
/// Size limit of a page of the list, which has at most a hundred orders.
pub(super) const MAX_LIST_BYTES: usize = 512 * 1024;

/// A client of the provider's API with one key.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: HeaderValue,
    answer_timeout: Duration,
}

/// A client cannot be built from the settings.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The key has characters that a header cannot carry.
    #[error(
        "ONECLICKDZ_API_KEY has characters that cannot be sent; copy it again from the provider's dashboard"
    )]
    Key,
    /// The secondary key has characters that a header cannot carry.
    #[error(
        "ONECLICKDZ_API_KEY_SECONDARY has characters that cannot be sent; copy it again from the provider's \
         dashboard"
    )]
    SecondaryKey,
    /// The API's address is of a kind without a path, such as `mailto:`.
    #[error("ONECLICKDZ_API_URL is not an address of the form https://api.oneclickdz.com")]
    Address,
    /// TLS or the HTTP stack cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
}

impl Client {
    /// Builds a client of the API at `base` that authenticates with `key`.
    ///
    /// # Errors
    /// [`ClientError`] if the key or the address is unusable, or the HTTP stack cannot be set up.
    pub fn new(base: &Url, key: &SecretString) -> Result<Self, ClientError> {
        Self::with_timeout(base, key, ANSWER_TIMEOUT)
    }

    pub(super) fn with_timeout(
        base: &Url,
        key: &SecretString,
        answer_timeout: Duration,
    ) -> Result<Self, ClientError> {
        let token = header(key).ok_or(ClientError::Key)?;
        if base.cannot_be_a_base() {
            return Err(ClientError::Address);
        }
        let http = crate::http::client_builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(ClientError::Http)?;
        Ok(Self { http, base: base.clone(), token, answer_timeout })
    }

    /// Returns a client with the merchant's secondary key that shares this client's connections.
    ///
    /// # Errors
    /// [`ClientError::SecondaryKey`] if the key is unusable.
    pub fn with_secondary_key(&self, key: &SecretString) -> Result<Self, ClientError> {
        let token = header(key).ok_or(ClientError::SecondaryKey)?;
        Ok(Self { token, ..self.clone() })
    }

    async fn get(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        max_bytes: usize,
    ) -> Result<(u16, reqwest::header::HeaderMap, Text), ApiError> {
        let mut url = self.base.clone();
        // Invariant: `new` refuses an address that cannot have a path.
        url.path_segments_mut().expect("the base has a path").pop_if_empty().extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.get(url).header("X-Access-Token", self.token.clone());
        let mut limit = RunningTime::new(self.answer_timeout);
        let response = limit.limit(request.send()).await.ok_or(ApiError::TimedOut)?;
        let response = response.map_err(|error| classify(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let read = limit.limit(crate::http::read_capped(response, max_bytes)).await;
        let body = match read {
            Some(Ok(body)) => body,
            // With any status but 200 the body does not matter. If a 401 with a broken body counted as a broken
            // connection, the workers would retry with the refused key, until the provider locks the address out.
            _ if status != 200 => Vec::new(),
            None => return Err(ApiError::TimedOut),
            Some(Err(ReadError::TooLong)) => {
                return Err(ApiError::Unreadable {
                    answer: Answer { status, ..Answer::default() },
                    what: "it exceeds the size limit",
                });
            }
            Some(Err(ReadError::Http(error))) => return Err(classify(&error)),
        };
        Ok((status, headers, Text::read(&body, max_bytes)))
    }
}

/// The value of the header `X-Access-Token`, or `None` if the key has characters that a header cannot carry.
fn header(key: &SecretString) -> Option<HeaderValue> {
    let mut token = HeaderValue::from_str(key.expose_secret().trim()).ok()?;
    token.set_sensitive(true);
    Some(token)
}

/// Describes a failure of the HTTP stack in fixed words, because the errors of the stack contain the address.
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
        let (status, headers, body) = self.get(&path, &[], MAX_ORDER_BYTES).await?;
        read_order(&RawAnswer { status, headers: &headers, body: &body }, topup_id.as_str())
    }

    async fn list(&self, page: u32, from: Timestamp, to: Timestamp) -> Result<OrderList, ApiError> {
        let path = ["v3", "internet", "list"];
        let [page_text, page_size] = [page, PAGE_SIZE].map(|number| number.to_string());
        let [from, to] = [from, to].map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true));
        let query = [("page", &*page_text), ("pageSize", &page_size), ("from", &from), ("to", &to)];
        let (status, headers, body) = self.get(&path, &query, MAX_LIST_BYTES).await?;
        read_list(&RawAnswer { status, headers: &headers, body: &body }, page)
    }

    async fn verify(&self) -> Result<(), ApiError> {
        let path = ["v3", "internet", "list"];
        let query = [("page", "1"), ("pageSize", "1")];
        let (status, headers, body) = self.get(&path, &query, MAX_LIST_BYTES).await?;
        read_content(&RawAnswer { status, headers: &headers, body: &body }).map(drop).map_err(about_the_list)
    }
}
