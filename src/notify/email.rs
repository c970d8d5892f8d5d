//! The channels `email` and `operator-email`: one mail in text and HTML for each event.
//!
//! Every attempt sends the same bytes: the date is the event's, and the MIME boundary and the Message-ID derive from
//! the event's id. So a mail program detects a repeat by its Message-ID. The only customer input in a header is the
//! parsed address. Customers' addresses come only from the stored order, the operator's only from the settings.

use async_trait::async_trait;
use lettre::address::{Address, Envelope};
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, Message, MultiPart, SinglePart};
use topup_jobs::{Locale, Outcome, Secret};

use super::smtp::MailServer;
use super::template_context::TemplateContext;
use super::templates::{MailText, Templates};
use super::{Audience, CardForm, Channel, ChannelName, CustomerSettings, Delivery, SendError};
use crate::orders::Order;

/// The e-mail settings.
#[derive(Clone)]
pub struct EmailConfig {
    /// The mail server.
    pub server: MailServer,
    /// Address and name of the sender.
    pub from: Mailbox,
    /// How much of a card the mails to customers carry.
    pub card: CardForm,
    /// Addresses of the operator; empty if the operator gets no mails.
    pub operator: Vec<Address>,
    /// Language of the mails to the operator.
    pub operator_locale: Locale,
}

/// Sends events as e-mails.
pub struct Email {
    server: MailServer,
    from: Mailbox,
    templates: Templates,
    reader: Reader,
}

enum Reader {
    Customer(CustomerSettings),
    Operator { addresses: Vec<Address>, locale: Locale },
}

impl Email {
    /// The channel to the customer of each order, in the customer's language.
    #[must_use]
    pub fn customers(email: &EmailConfig, templates: Templates, settings: CustomerSettings) -> Self {
        Self::new(email, templates, Reader::Customer(settings))
    }

    /// The channel to the operator, for orders that a person must check.
    #[must_use]
    pub fn operator(email: &EmailConfig, templates: Templates) -> Self {
        let (addresses, locale) = (email.operator.clone(), email.operator_locale);
        Self::new(email, templates, Reader::Operator { addresses, locale })
    }

    fn new(email: &EmailConfig, templates: Templates, reader: Reader) -> Self {
        Self { server: email.server.clone(), from: email.from.clone(), templates, reader }
    }

    fn mail(&self, delivery: Delivery<'_>) -> Result<(Envelope, Vec<u8>), SendError> {
        let (audience, locale, to) = match &self.reader {
            Reader::Operator { addresses, locale } => (Audience::Operator, *locale, addresses.clone()),
            Reader::Customer(_) => {
                // The address comes from the order, not from the event, because a message may have corrected it since.
                let address = delivery.order.customer.as_ref().and_then(|customer| customer.email.as_ref());
                let address = address.map(Secret::reveal);
                let address = address.and_then(|address| address.trim().parse().ok());
                let no_address = || SendError::Refused("the customer has no valid e-mail address".to_owned());
                let customer = delivery.event.data.customer.as_ref();
                let locale = customer.map(|customer| customer.locale).unwrap_or_default();
                (Audience::Customer, locale, vec![address.ok_or_else(no_address)?])
            }
        };
        let text = self.templates.mail(
            audience,
            locale,
            &TemplateContext::new(delivery, locale).carrying(self.card_form()),
        );
        let text = text.map_err(|error| failed(&error.to_string()))?;
        let message = self.message(delivery, locale, &to, text);
        let envelope = Envelope::new(Some(self.from.email.clone()), to);
        match (message, envelope) {
            (Ok(message), Ok(envelope)) => Ok((envelope, message.formatted())),
            _ => Err(failed("the mail cannot be composed")),
        }
    }

    fn message(
        &self,
        delivery: Delivery<'_>,
        locale: Locale,
        to: &[Address],
        text: MailText,
    ) -> Result<Message, lettre::error::Error> {
        let id = delivery.event_id;
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(text.subject)
            .date(delivery.event.timestamp.into())
            .message_id(Some(format!("<{id}.{}@{}>", self.name(), self.from.email.domain())))
            .raw_header(header("Auto-Submitted", "auto-generated"))
            .raw_header(header("Content-Language", language(locale)))
            .raw_header(header("X-Topup-Event-Id", id.as_str()));
        for address in to {
            message = message.to(Mailbox::new(None, address.clone()));
        }
        let parts = MultiPart::alternative()
            // Quoted-printable encodes "=" as "=3D", so no part can contain the boundary, which begins with "=_".
            .boundary(format!("=_{id}"))
            .singlepart(part(ContentType::TEXT_PLAIN, text.text))
            .singlepart(part(ContentType::TEXT_HTML, text.html));
        message.multipart(parts)
    }
}

#[async_trait]
impl Channel for Email {
    fn name(&self) -> &'static str {
        match self.reader {
            Reader::Customer(_) => ChannelName::Email.as_str(),
            Reader::Operator { .. } => ChannelName::OperatorEmail.as_str(),
        }
    }

    fn wants(&self, outcome: Outcome, order: &Order) -> bool {
        match &self.reader {
            Reader::Operator { .. } => Audience::Operator.concerns(outcome),
            Reader::Customer(settings) => {
                let customer = order.customer.as_ref();
                let address = customer.and_then(|customer| customer.email.as_ref());
                settings.tells(outcome) && address.is_some_and(|address| !address.reveal().trim().is_empty())
            }
        }
    }

    fn reaches_receivers(&self) -> bool {
        matches!(self.reader, Reader::Customer(_))
    }

    fn card_form(&self) -> CardForm {
        match &self.reader {
            Reader::Customer(settings) => settings.card,
            Reader::Operator { .. } => CardForm::Nothing,
        }
    }

    fn endpoint(&self, _: &Order) -> Option<String> {
        Some(self.server.name())
    }

    async fn send(&self, delivery: Delivery<'_>) -> Result<(), SendError> {
        let (envelope, mail) = self.mail(delivery)?;
        self.server.send(&envelope, &mail).await
    }
}

fn part(kind: ContentType, text: String) -> SinglePart {
    // Invariant: quoted-printable can encode any text.
    let body = Body::new_with_encoding(text, ContentTransferEncoding::QuotedPrintable).expect("a body");
    SinglePart::builder().header(kind).body(body)
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

const fn language(locale: Locale) -> &'static str {
    match locale {
        Locale::Fr => "fr",
        Locale::Ar => "ar",
        Locale::En => "en",
    }
}

fn failed(what: &str) -> SendError {
    SendError::Failed { what: what.to_owned(), retry_after: None }
}

#[cfg(test)]
#[path = "email_tests.rs"]
mod tests;
