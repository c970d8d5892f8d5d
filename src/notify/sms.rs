//! The channel `sms`: one HTTP request to the merchant's gateway for each event.
//!
//! Gateways differ, so the merchant describes the request in a template. At start the template is rendered with a
//! sample, so that an escaping error shows before it affects a customer. A 2xx is success. A 400 or 422 may mean a bad
//! message or used-up credit, so it refuses the message for good only if the answer contains a configured text. Every
//! other answer concerns the account or the gateway and is retried. Redirects are not followed.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, Value, filters};
use phonenumber::country::Id as Country;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Request, Response};
use serde::Serialize;
use topup_jobs::{Locale, Outcome};
use url::{Url, form_urlencoded};

use super::phone::Phone;
use super::template_context::TemplateContext;
use super::templates::Templates;
use super::{CardForm, Channel, ChannelName, CustomerSettings, Delivery, SendError};
use crate::http::{no_answer, read_capped, retry_after};
use crate::orders::Order;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
const BODY: &str = "SMS_BODY";
const NOT_JSON: &str = "the rendered body is not JSON; write {{ phone | tojson }} and {{ text | tojson }} without \
                        quotes around them";

/// The variables of the template `SMS_BODY`.
#[derive(Serialize)]
struct Variables<'a> {
    #[serde(flatten)]
    phone: Phone,
    text: &'a str,
    from: Option<&'a str>,
    event_id: &'a str,
    topup_id: &'a str,
    outcome: Outcome,
    locale: Locale,
}

/// A phone number with characters that a template must escape. A producer may send such a number.
const ODD_PHONE: &str = r#"+213 "661" \ & < % 223344"#;
const ODD_TEXT: &str = r#"Code : 1234 & "5678" \ 100 % é ع"#;
/// A common phone number. All its formats contain the digits [`PLAIN_DIGITS`].
const PLAIN_PHONE: &str = "+213 661 22 33 44";
const PLAIN_DIGITS: &str = "661223344";
/// Longest answer that is searched for a refusal, in bytes. A longer one counts as a failure and is retried.
const MAX_OF_ANSWER: usize = 16 * 1024;

fn sample(phone: Phone, from: Option<&str>) -> Variables<'_> {
    Variables {
        phone,
        text: ODD_TEXT,
        from,
        event_id: "evt_6901616fe9e88196b4eb64b2_fulfilled",
        topup_id: "6901616fe9e88196b4eb64b2",
        outcome: Outcome::Fulfilled,
        locale: Locale::Fr,
    }
}

/// Why the settings of the SMS gateway are invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidGateway(String);

/// An SMS gateway, with the template of its request.
#[derive(Clone)]
pub struct SmsGateway {
    /// URL of the gateway.
    pub url: Url,
    method: Method,
    headers: HeaderMap,
    content_type: HeaderValue,
    from: Option<String>,
    body: Arc<Environment<'static>>,
    country: Country,
    refusals: Vec<String>,
}

impl SmsGateway {
    /// `body` is the template of the request body (GET: of the query). `headers` may override `content_type`.
    ///
    /// # Errors
    /// [`InvalidGateway`] if the template cannot be rendered, or alters the phone or the text of a sample.
    pub fn new(
        url: Url,
        method: Method,
        headers: HeaderMap,
        content_type: HeaderValue,
        from: Option<String>,
        body: String,
    ) -> Result<Self, InvalidGateway> {
        let content_type = headers.get(CONTENT_TYPE).cloned().unwrap_or(content_type);
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        // Unlike the standard filters, these refuse an undefined value, so a misspelt variable does not go unnoticed.
        environment.add_filter("tojson", |value: &Value, indent: Option<Value>, options: Kwargs| {
            filters::tojson(there(value)?, indent, options)
        });
        environment.add_filter("urlencode", |value: &Value| filters::urlencode(there(value)?));
        environment.set_debug(true); // makes errors name the variable
        environment.add_template_owned(BODY, body).map_err(|error| invalid(&error))?;
        let (body, country, refusals) = (Arc::new(environment), Country::DZ, Vec::new());
        let gateway = Self { url, method, headers, content_type, from, body, country, refusals };
        gateway.try_sample()?;
        Ok(gateway)
    }

    /// Sets the country of phone numbers without country code; Algeria by default.
    #[must_use]
    pub fn in_country(self, country: Country) -> Self {
        Self { country, ..self }
    }

    /// Sets the texts that mark a 400 or 422 as a refusal of the message; case is ignored.
    #[must_use]
    pub fn refusing_with(self, refusals: Vec<String>) -> Self {
        Self { refusals, ..self }
    }

    fn try_sample(&self) -> Result<(), InvalidGateway> {
        // ODD_PHONE is no valid number and has no formats such as E.164, so the sample gets those of PLAIN_PHONE.
        let odd = Phone::read(PLAIN_PHONE, self.country).given_as(ODD_PHONE);
        let Some((odd, filter)) = self.arriving(odd)? else { return Ok(()) };
        let plain = self.arriving(Phone::read(PLAIN_PHONE, self.country))?.unwrap_or_default().0;
        let has = |arriving: &[String], word: &str| arriving.iter().any(|value| value.contains(word));
        // A template may send another format than `phone`. Both samples then have as many values; a bare `&` adds one.
        let phone = has(&odd, ODD_PHONE) || (odd.len() == plain.len() && has(&plain, PLAIN_DIGITS));
        for (name, arrives) in [("phone", phone), ("text", has(&odd, ODD_TEXT))] {
            if !arrives {
                let advice = format!("write {{{{ {name} | {filter} }}}}");
                return Err(InvalidGateway(format!("{name} is missing or arrives altered; {advice}")));
            }
        }
        Ok(())
    }

    /// Renders a sample with this phone. Returns the values that a receiver parses from it, and the filter that escapes
    /// values for this content type; `None` for an unknown content type.
    fn arriving(&self, phone: Phone) -> Result<Option<(Vec<String>, &'static str)>, InvalidGateway> {
        let body = self.render(&sample(phone, self.from.as_deref())).map_err(|error| invalid(&error))?;
        let kind = self.content_type.to_str().unwrap_or_default();
        if self.method == Method::GET || kind.starts_with("application/x-www-form-urlencoded") {
            let values = form_urlencoded::parse(body.as_bytes()).map(|(_, value)| value.into_owned());
            return Ok(Some((values.collect(), "urlencode")));
        }
        if kind.contains("json") {
            let json = serde_json::from_str(&body).map_err(|_| InvalidGateway(NOT_JSON.to_owned()))?;
            return Ok(Some((strings(&json), "tojson")));
        }
        Ok(None)
    }

    /// Whether the answer contains one of the configured refusal texts.
    async fn refuses(&self, answer: Response) -> bool {
        if self.refusals.is_empty() {
            return false;
        }
        let body = read_capped(answer, MAX_OF_ANSWER).await.unwrap_or_default();
        let said = String::from_utf8_lossy(&body).to_lowercase();
        self.refusals.iter().any(|words| said.contains(&words.to_lowercase()))
    }

    fn render(&self, variables: &Variables<'_>) -> Result<String, minijinja::Error> {
        self.body.get_template(BODY)?.render(Serde(variables))
    }

    fn request(&self, variables: &Variables<'_>) -> Result<Request, SendError> {
        let body = self.render(variables).map_err(|error| {
            if error.kind() == ErrorKind::UndefinedError && !variables.phone.is_known() {
                SendError::Refused("the customer's phone number cannot be parsed".to_owned())
            } else {
                failed("SMS_BODY cannot be rendered")
            }
        })?;
        let mut url = self.url.clone();
        let mut headers = self.headers.clone();
        if self.method == Method::GET {
            let query = url.query().filter(|query| !query.is_empty()).map(|query| format!("{query}&{body}"));
            url.set_query(Some(&query.unwrap_or(body)));
            let mut request = Request::new(self.method.clone(), url);
            *request.headers_mut() = headers;
            return Ok(request);
        }
        headers.entry(CONTENT_TYPE).or_insert_with(|| self.content_type.clone());
        let mut request = Request::new(self.method.clone(), url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        Ok(request)
    }
}

impl fmt::Debug for SmsGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmsGateway").field("method", &self.method).finish_non_exhaustive()
    }
}

/// Sends events to customers by SMS.
pub struct Sms {
    http: reqwest::Client,
    gateway: SmsGateway,
    templates: Templates,
    settings: CustomerSettings,
}

impl Sms {
    /// Creates the channel over this gateway.
    ///
    /// # Errors
    /// `reqwest::Error` if the HTTP stack cannot be set up.
    pub fn new(
        gateway: SmsGateway,
        templates: Templates,
        settings: CustomerSettings,
    ) -> Result<Self, reqwest::Error> {
        let http = crate::http::client_builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, gateway, templates, settings })
    }
}

#[async_trait]
impl Channel for Sms {
    fn name(&self) -> &'static str {
        ChannelName::Sms.as_str()
    }

    fn wants(&self, outcome: Outcome, order: &Order) -> bool {
        let phone = order.customer.as_ref().and_then(|customer| customer.phone.as_ref());
        self.settings.tells(outcome) && phone.is_some_and(|phone| !phone.reveal().trim().is_empty())
    }

    fn card_form(&self) -> CardForm {
        self.settings.card
    }

    fn endpoint(&self, _: &Order) -> Option<String> {
        Some(self.gateway.url.origin().ascii_serialization())
    }

    async fn send(&self, delivery: Delivery<'_>) -> Result<(), SendError> {
        // The number comes from the order, not from the event, because a message may have corrected it since.
        let phone = delivery.order.customer.as_ref().and_then(|customer| customer.phone.as_ref());
        let phone = phone.map(|phone| phone.reveal().trim()).filter(|phone| !phone.is_empty());
        let Some(phone) = phone else {
            return Err(SendError::Refused("the order has no phone number".to_owned()));
        };
        let customer = delivery.event.data.customer.as_ref();
        let locale = customer.map(|customer| customer.locale).unwrap_or_default();
        let text =
            self.templates.sms(locale, &TemplateContext::new(delivery, locale).carrying(self.card_form()));
        let text = text.map_err(|error| failed(&error.to_string()))?;
        let request = self.gateway.request(&Variables {
            phone: Phone::read(phone, self.gateway.country),
            text: &text,
            from: self.gateway.from.as_deref(),
            event_id: delivery.event_id.as_str(),
            topup_id: delivery.event.data.topup_id.as_str(),
            outcome: delivery.outcome,
            locale,
        })?;
        let answer = self.http.execute(request).await;
        let answer = answer.map_err(|error| SendError::Unavailable(no_answer(&error).to_owned()))?;
        match answer.status().as_u16() {
            200..300 => Ok(()),
            code => {
                let retry_after = retry_after(answer.headers());
                if matches!(code, 400 | 422) && self.gateway.refuses(answer).await {
                    return Err(SendError::Refused(format!("HTTP {code}: the gateway refuses the message")));
                }
                Err(SendError::Failed { what: format!("HTTP {code}"), retry_after })
            }
        }
    }
}

/// The value of a template variable, or an error if it is undefined.
fn there(value: &Value) -> Result<&Value, minijinja::Error> {
    if value.is_undefined() { Err(ErrorKind::UndefinedError.into()) } else { Ok(value) }
}

fn strings(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::String(text) => vec![text.clone()],
        serde_json::Value::Array(values) => values.iter().flat_map(strings).collect(),
        serde_json::Value::Object(fields) => fields.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

fn invalid(error: &minijinja::Error) -> InvalidGateway {
    let why = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    InvalidGateway(format!("line {}: {}{why}", error.line().unwrap_or(1), error.kind()))
}

fn failed(what: &str) -> SendError {
    SendError::Failed { what: what.to_owned(), retry_after: None }
}

#[cfg(test)]
#[path = "sms_tests.rs"]
mod tests;
