//! The page itself: one template, and headers that keep the card where it is shown.
//!
//! It has no script and loads nothing. It is not stored by a browser or a proxy, not framed, not indexed, and its
//! address goes nowhere as a referrer.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use rand::RngExt;
use topup_jobs::{Card, Locale};

use super::texts::texts;
use crate::notify::processed_at;

/// What is on the page.
#[derive(Debug, PartialEq)]
pub(super) enum View {
    /// The question; after a wrong answer with the number of answers that are left.
    Ask { left: Option<u32> },
    /// The card.
    Card(Card),
    /// It has been shown before.
    AlreadyShown,
    /// Too many answers.
    Spent,
    /// It is too late.
    Expired,
    /// There is no such link.
    Unknown,
    /// The store does not answer.
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

/// Makes the page.
pub(super) struct Page(Environment<'static>);

const NAME: &str = "page.html";

impl Page {
    pub(super) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let added = environment.add_template(NAME, include_str!("page.html"));
        // Invariant: the template is part of this program, and every test of this module reads it.
        added.expect("the page can be read");
        Self(environment)
    }

    /// The answer to a visitor.
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
        // Invariant: the names and values of the headers are those above.
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
        // Invariant: the template uses these values only, and a test renders every view in every language.
        rendered.expect("the page can be rendered")
    }
}
