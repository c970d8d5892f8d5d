//! The section of the SMS gateway: the request that sends an SMS, and the form of the card.

use clap::{Args, ValueEnum};
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{SettingsError, set, unusable};
use crate::notify::{CardForm, SmsGateway};

const CONTENT_TYPE: &str = "application/json";

/// HTTP method of a request to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SmsMethod {
    /// With a body.
    #[value(name = "POST")]
    Post,
    /// With a body.
    #[value(name = "PUT")]
    Put,
    /// With SMS_BODY as the query of the address.
    #[value(name = "GET")]
    Get,
}

/// Settings of the SMS gateway.
#[derive(Debug, Clone, Args)]
pub struct SmsSettings {
    /// Address of the SMS gateway; customers with a phone number then get SMS
    #[arg(long, env = "SMS_URL", hide_env_values = true)]
    pub sms_url: Option<SecretString>,

    /// Method of the request; with GET, SMS_BODY is the query
    #[arg(long, env = "SMS_METHOD", value_enum, ignore_case = true, default_value = "POST")]
    pub sms_method: SmsMethod,

    /// Headers of the request, `Name: value`, one a line
    #[arg(long, env = "SMS_HEADERS", hide_env_values = true)]
    pub sms_headers: Option<SecretString>,

    /// Body of the request, a template: `{"to":{{ phone | tojson }},"text":{{ text | tojson }}}`
    #[arg(long, env = "SMS_BODY", hide_env_values = true)]
    pub sms_body: Option<SecretString>,

    /// Type of the body
    #[arg(long, env = "SMS_CONTENT_TYPE", default_value = CONTENT_TYPE)]
    pub sms_content_type: String,

    /// Country of numbers that are given without its code, in two letters
    #[arg(long, env = "SMS_COUNTRY", default_value = "DZ")]
    pub sms_country: String,

    /// Words in a 400 or 422 of the gateway by which it says that it can never send the message, separated by commas
    #[arg(long, env = "SMS_REFUSED_IF", value_delimiter = ',')]
    pub sms_refused_if: Vec<String>,

    /// Sender of the SMS, the variable `from` of SMS_BODY
    #[arg(long, env = "SMS_FROM")]
    pub sms_from: Option<String>,

    /// What an SMS to a customer carries of the card
    #[arg(long, env = "SMS_CARD", value_enum, default_value = "none")]
    pub sms_card: CardForm,

    /// Allow a gateway without TLS; for one on the same machine, and tests
    #[arg(long, env = "ALLOW_INSECURE_SMS")]
    pub allow_insecure_sms: bool,
}

impl SmsSettings {
    pub(super) fn gateway(&self) -> Result<Option<SmsGateway>, SettingsError> {
        let Some(url) = self.url()? else { return Ok(None) };
        let advice = "see the gateway's documentation for its form; an example of a JSON body is \
                      {\"to\":{{ phone | tojson }},\"text\":{{ text | tojson }}}";
        let missing = SettingsError::Missing { name: "SMS_BODY", advice };
        let body = set(self.sms_body.as_ref()).ok_or(missing)?.expose_secret().to_owned();
        let method = match self.sms_method {
            SmsMethod::Post => Method::POST,
            SmsMethod::Put => Method::PUT,
            SmsMethod::Get => Method::GET,
        };
        let from = self.sms_from.clone().filter(|from| !from.trim().is_empty());
        let gateway = SmsGateway::new(url, method, self.headers()?, self.content_type()?, from, body)
            .map_err(|error| unusable("SMS_BODY", error.to_string()))?;
        let country = self.sms_country.trim().to_ascii_uppercase();
        let country = if country.is_empty() { "DZ" } else { &country };
        let country = country
            .parse()
            .map_err(|_| unusable("SMS_COUNTRY", "it must be two letters of ISO 3166, such as DZ"))?;
        let refusals = self.sms_refused_if.iter().map(|words| words.trim().to_owned());
        let refusals = refusals.filter(|words| !words.is_empty()).collect();
        Ok(Some(gateway.in_country(country).refusing_with(refusals)))
    }

    fn url(&self) -> Result<Option<Url>, SettingsError> {
        let Some(url) = set(self.sms_url.as_ref()) else { return Ok(None) };
        let url: Url = url.expose_secret().parse().map_err(|_| unusable("SMS_URL", "it is not a URL"))?;
        if url.scheme() == "https" || (self.allow_insecure_sms && url.scheme() == "http") {
            Ok(Some(url))
        } else {
            Err(unusable(
                "SMS_URL",
                "texts and phone numbers travel over TLS only; use https://, or ALLOW_INSECURE_SMS=true for a \
                 gateway on this machine",
            ))
        }
    }

    fn headers(&self) -> Result<HeaderMap, SettingsError> {
        let mut headers = HeaderMap::new();
        let Some(lines) = set(self.sms_headers.as_ref()) else { return Ok(headers) };
        for line in lines.expose_secret().lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, mut value) = header(line)
                .ok_or_else(|| unusable("SMS_HEADERS", "each line must be a header, `Name: value`"))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(headers)
    }

    fn content_type(&self) -> Result<HeaderValue, SettingsError> {
        let named = self.sms_content_type.trim();
        let named = if named.is_empty() { CONTENT_TYPE } else { named };
        named.parse().map_err(|_| {
            unusable("SMS_CONTENT_TYPE", "it is not a valid header value; an example is application/json")
        })
    }
}

fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
}
