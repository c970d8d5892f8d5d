//! The card page behind a one-time link: it shows a card once, to a visitor who knows the last digits of the number.
//!
//! The link alone shows no card, so messages with it may be forwarded, archived and scanned. GET shows a form and
//! changes nothing, since mail servers and messengers open links by themselves. The first right answer gets the card,
//! and the card is recorded as shown before it is sent. Every answer counts as a try and is in the order's history.
//!
//! There are no sessions and no cookies. A reverse proxy adds TLS. Paths are never logged, since they contain the
//! token. Only the end of a path is read, `/r/<token>`, because a proxy may keep or remove the part before it.

mod page;
mod texts;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use topup_jobs::{Locale, Secret};
use url::Url;

use crate::clock::Clock;
use crate::digits::{DIGITS, western_digit};
use crate::error_chain::chain;
use crate::orders::{Order, OrderStore, Reveal, RevealOutcome, StoreError};

use self::page::{Page, View};

/// Number of tries per link. Five guesses of four digits succeed with a chance of one in two thousand.
pub const MAX_TRIES: u32 = 5;
/// Longest form, in bytes.
const MAX_FORM: usize = 256;
const MAX_CONNECTIONS: usize = 256;
/// Maximum number of requests that use the store at once, so that a flood of visitors does not block the workers.
const MAX_AT_ONCE: usize = 16;

/// Builds the links that messages carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// Public URL of the page, with a trailing slash.
    pub url: Url,
    /// How long a link is valid, in domain time.
    pub lifetime: Duration,
}

impl Links {
    /// The link for a token.
    #[must_use]
    pub fn to(&self, token: &SecretString) -> String {
        format!("{}r/{}", self.url, token.expose_secret())
    }
}

/// The card page and its dependencies. Clones share them.
#[derive(Clone)]
pub struct RevealPage {
    store: Arc<dyn OrderStore>,
    clock: Arc<dyn Clock>,
    page: Arc<Page>,
    places: Arc<Semaphore>,
}

/// The view for a visitor and its language; `None` for an unknown link.
type Found = Result<Option<(Locale, View)>, StoreError>;

impl RevealPage {
    /// Creates the page over a store.
    #[must_use]
    pub fn new(store: Arc<dyn OrderStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, page: Arc::new(Page::new()), places: Arc::new(Semaphore::new(MAX_AT_ONCE)) }
    }

    /// Serves the page until the process ends; failures of the store are logged and answered with 503.
    pub async fn serve(self, listener: TcpListener) {
        crate::http::serve("REVEAL_ADDR", listener, MAX_CONNECTIONS, self.router()).await;
    }

    fn router(self) -> Router {
        Router::new().fallback(visit).with_state(self)
    }

    fn respond(&self, found: Found) -> Response {
        let (locale, view) = match found {
            Ok(Some((locale, view))) => (locale, view),
            Ok(None) => (Locale::default(), View::Unknown),
            Err(error) => {
                tracing::error!(error = chain(&error), "the database failed; the card page answers with 503");
                (Locale::default(), View::Trouble)
            }
        };
        self.page.respond(view.status(), locale, &view)
    }

    async fn find(&self, token: &str) -> Result<Option<(Reveal, Order)>, StoreError> {
        let Some(reveal) = self.store.reveal(token).await? else { return Ok(None) };
        let order = self.store.order(&reveal.topup_id).await?;
        Ok(order.map(|order| (reveal, order)))
    }

    async fn opened(&self, token: &str) -> Found {
        let _place = self.places.acquire().await;
        let Some((reveal, order)) = self.find(token).await? else { return Ok(None) };
        let view = if reveal.revealed_at.is_some() {
            View::AlreadyShown
        } else if reveal.tries >= MAX_TRIES {
            View::Spent
        } else if reveal.expires_at <= self.clock.now() {
            View::Expired
        } else {
            View::Ask { left: None }
        };
        Ok(Some((order.locale(), view)))
    }

    async fn answered(&self, token: &str, digits: &str) -> Found {
        let _place = self.places.acquire().await;
        let Some((_, order)) = self.find(token).await? else { return Ok(None) };
        // The card is read before the try is stored, because an unreadable card must not count as shown.
        let Some(card) = self.store.card(&order.topup_id).await? else { return Ok(None) };
        let right = number(&order).is_some_and(|number| is_right(digits, &number));
        let outcome = self.store.try_reveal(token, right, MAX_TRIES, self.clock.now()).await?;
        let view = match outcome {
            RevealOutcome::Shown => View::Card(card),
            RevealOutcome::Wrong { left } => View::Ask { left: Some(left) },
            RevealOutcome::Spent => View::Spent,
            RevealOutcome::Expired => View::Expired,
            RevealOutcome::AlreadyShown => View::AlreadyShown,
            RevealOutcome::Unknown => return Ok(None),
        };
        Ok(Some((order.locale(), view)))
    }
}

async fn visit(State(this): State<RevealPage>, method: Method, uri: Uri, form: Bytes) -> Response {
    let Some(token) = token(uri.path()) else { return this.respond(Ok(None)) };
    match method {
        Method::GET | Method::HEAD => this.respond(this.opened(token).await),
        Method::POST if form.len() > MAX_FORM => {
            this.page.respond(StatusCode::PAYLOAD_TOO_LARGE, Locale::default(), &View::Unknown)
        }
        Method::POST => this.respond(this.answered(token, &digits(&form)).await),
        _ => this.page.respond(StatusCode::METHOD_NOT_ALLOWED, Locale::default(), &View::Unknown),
    }
}

/// Extracts the token from a path that ends in `/r/<token>`. Punctuation after the token is ignored: mail programs and
/// messengers append what follows a link, such as a full stop, a bracket, a quotation mark or a directional mark.
fn token(path: &str) -> Option<&str> {
    let (_, rest) = path.rsplit_once("/r/")?;
    let end =
        rest.find(|at: char| !at.is_ascii_alphanumeric() && at != '-' && at != '_').unwrap_or(rest.len());
    let (token, behind) = rest.split_at(end);
    (!token.is_empty() && is_punctuation(behind)).then_some(token)
}

/// Whether a percent-encoded part of a path contains neither letters nor digits.
fn is_punctuation(part: &str) -> bool {
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(part).collect();
    String::from_utf8_lossy(&bytes).chars().all(|at| !at.is_alphanumeric())
}

/// Whether the digits are the end of the number, or the whole number with or without the country code.
fn is_right(digits: &str, number: &str) -> bool {
    let national = |number: &str| -> String {
        let without_code = ["00213", "213"].iter().find_map(|code| number.strip_prefix(code));
        let number = without_code.filter(|rest| rest.trim_start_matches('0').len() >= 8).unwrap_or(number);
        number.trim_start_matches('0').to_owned()
    };
    digits.len() >= DIGITS && (number.ends_with(digits) || national(digits) == national(number))
}

/// The digits that the visitor entered, in ASCII; other characters are dropped.
fn digits(form: &[u8]) -> String {
    let digits = url::form_urlencoded::parse(form).find(|(name, _)| name == "digits");
    digits.map(|(_, value)| value.chars().filter_map(western_digit).collect()).unwrap_or_default()
}

/// The digits of the order's number in ASCII; `None` if it has letters or too few digits to ask for the last ones.
fn number(order: &Order) -> Option<String> {
    let number = order.number.as_ref().map(Secret::reveal)?;
    let digits: String = number.chars().filter_map(western_digit).collect();
    let has_letters = number.chars().any(char::is_alphabetic);
    (digits.len() >= DIGITS && !has_letters).then_some(digits)
}

/// Whether the order has a number that the page can ask for. Without one a link could never be opened.
#[must_use]
pub fn can_ask(order: &Order) -> bool {
    number(order).is_some()
}

#[cfg(test)]
mod tests;
