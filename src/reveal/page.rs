//! Renders the card page from one template, without scripts or external resources. The response headers forbid caching,
//! framing, indexing and referrers, so that neither the card nor the link leaves the page.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use rand::RngExt;
use topup_jobs::{Card, Locale};

use super::texts::texts;
use crate::notify::processed_at;

#[derive(Debug, PartialEq)]
pub(super) enum View {
    /// The form that asks for the last digits. After a wrong answer it shows `left`, the number of remaining tries.
    Ask {
        left: Option<u32>,
    },
    /// The card. It is shown only once.
    Card(Card),
    AlreadyShown,
    /// All tries of the link are used up.
    Spent,
    Expired,
    /// The link does not exist.
    Unknown,
    /// The store failed.
    Trouble,
}

impl View {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Ask { left: None } | Self::Card(_) => StatusCode::OK,
            Self::Ask { left: Some(_) } => StatusCode::FORBIDDEN,
            Self::AlreadyShown | Self::Spent | Self::Expired => StatusCode::GONE,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Trouble => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

pub(super) struct Page(Environment<'static>);

const NAME: &str = "page.html";

impl Page {
    pub(super) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let added = environment.add_template(NAME, include_str!("page.html"));
        // Invariant: the template is compiled in, and the tests of this module parse it.
        added.expect("the page can be read");
        Self(environment)
    }

    pub(super) fn respond(&self, status: StatusCode, locale: Locale, view: &View) -> Response<Body> {
        let nonce = hex::encode(rand::rng().random::<[u8; 16]>());
        let policy = format!(
            "default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        );
        let response = Response::builder()
            .status(status)
            .header("content-type", "text/html; charset=utf-8")
            .header("content-language", texts(locale).lang)
            .header("cache-control", "no-store")
            .header("content-security-policy", policy)
            .header("referrer-policy", "no-referrer")
            .header("x-content-type-options", "nosniff")
            .header("x-robots-tag", "noindex, nofollow");
        // Invariant: all names and values above are valid in headers.
        response.body(Body::from(self.render(locale, view, &nonce))).expect("the headers are valid")
    }

    pub(super) fn render(&self, locale: Locale, view: &View, nonce: &str) -> String {
        let (name, left, card) = match view {
            View::Ask { left } => ("ask", *left, None),
            View::Card(card) => ("card", None, Some(card)),
            View::AlreadyShown => ("already_shown", None, None),
            View::Spent => ("spent", None, None),
            View::Expired => ("expired", None, None),
            View::Unknown => ("unknown", None, None),
            View::Trouble => ("trouble", None, None),
        };
        let values = context! {
            texts => Serde(texts(locale)),
            nonce,
            view => name,
            left,
            card_code => card.map(|card| card.card_code.reveal()),
            num_trans => card.and_then(|card| card.num_trans.as_deref()),
            date_traitement => card
                .and_then(|card| card.date_traitement.as_deref())
                .map(|at| processed_at(at, locale)),
        };
        let rendered = self.0.get_template(NAME).and_then(|page| page.render(values));
        // Invariant: the template uses only these values; a test renders every view in every language.
        rendered.expect("the page can be rendered")
    }
}
