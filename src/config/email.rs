//! The section of mails: server, sender, form of the card and the operator's addresses.

use clap::Args;
use lettre::address::Address;
use lettre::message::{Mailbox, Mailboxes};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use topup_jobs::Locale;
use url::Url;

use super::texts::locale_parser;
use super::{SettingsError, certificates, set, unusable};
use crate::notify::{CardForm, EmailConfig, MailServer, Security};

const SMTP_PORT: u16 = 587;
const SMTPS_PORT: u16 = 465;
/// Advice for a sender or operator address with other characters than ASCII, which not every mail server accepts.
const NOT_ASCII: &str = "write addresses in ASCII, their domains as xn--…";

/// Settings of the mail server, the sender and the operator's addresses.
#[derive(Debug, Clone, Args)]
pub struct EmailSettings {
    /// The mail server, smtps:// or smtp:// with STARTTLS; customers with an e-mail address then get mails
    #[arg(long, env = "SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<SecretString>,

    /// Certificates (PEM) of the authorities to trust with the mail server, instead of the system's
    #[arg(long, env = "SMTP_CA_FILE")]
    pub smtp_ca_file: Option<String>,

    /// Allow smtp:// to a server that offers no STARTTLS; for tests
    #[arg(long, env = "ALLOW_INSECURE_SMTP")]
    pub allow_insecure_smtp: bool,

    /// Sender of the mails, `Shop <topup@shop.example>`
    #[arg(long, env = "EMAIL_FROM")]
    pub email_from: Option<String>,

    /// What a mail to a customer carries of the card
    #[arg(long, env = "EMAIL_CARD", value_enum, default_value = "none")]
    pub email_card: CardForm,

    /// The operator's addresses, separated by commas, for orders that a human must look at
    #[arg(long, env = "OPERATOR_EMAIL", hide_env_values = true)]
    pub operator_email: Option<SecretString>,

    /// Language of the mails to the operator
    #[arg(long, env = "OPERATOR_LOCALE", default_value = "fr", value_parser = locale_parser())]
    pub operator_locale: Locale,
}

impl EmailSettings {
    pub(super) fn config(&self) -> Result<Option<EmailConfig>, SettingsError> {
        let operator = self.operator()?;
        let Some(from) = self.from()? else { return Ok(None) };
        let Some(server) = self.server(from.email.domain())? else { return Ok(None) };
        Ok(Some(EmailConfig {
            server,
            from,
            card: self.email_card,
            operator,
            operator_locale: self.operator_locale,
        }))
    }

    /// All errors that [`EmailSettings::config`] would report.
    pub(super) fn faults(&self) -> impl Iterator<Item = SettingsError> {
        let faults = [self.operator().err(), self.from().err(), self.server("localhost").err()];
        faults.into_iter().flatten()
    }

    fn from(&self) -> Result<Option<Mailbox>, SettingsError> {
        if set(self.smtp_url.as_ref()).is_none() {
            return Ok(None);
        }
        let advice = "mail programs show it as the sender; write it as Shop <topup@shop.example>";
        let missing = SettingsError::Missing { name: "EMAIL_FROM", advice };
        let text =
            self.email_from.as_deref().map(str::trim).filter(|text| !text.is_empty()).ok_or(missing)?;
        let from: Mailbox =
            text.parse().map_err(|_| unusable("EMAIL_FROM", "write it as Shop <topup@shop.example>"))?;
        if is_ascii(&from.email) { Ok(Some(from)) } else { Err(unusable("EMAIL_FROM", NOT_ASCII)) }
    }

    fn operator(&self) -> Result<Vec<Address>, SettingsError> {
        let Some(text) = set(self.operator_email.as_ref()) else { return Ok(Vec::new()) };
        if set(self.smtp_url.as_ref()).is_none() {
            let advice = "the mails to OPERATOR_EMAIL go through it; write smtps://user:password@host";
            return Err(SettingsError::Missing { name: "SMTP_URL", advice });
        }
        let addresses: Mailboxes = text
            .expose_secret()
            .parse()
            .map_err(|_| unusable("OPERATOR_EMAIL", "write e-mail addresses, separated by commas"))?;
        let addresses: Vec<_> = addresses.into_iter().map(|mailbox| mailbox.email).collect();
        // One mail goes to all operator addresses. If one is not ASCII, a server may refuse the mail for all of them.
        if addresses.iter().all(is_ascii) {
            Ok(addresses)
        } else {
            Err(unusable("OPERATOR_EMAIL", NOT_ASCII))
        }
    }

    fn server(&self, domain: &str) -> Result<Option<MailServer>, SettingsError> {
        let Some(url) = set(self.smtp_url.as_ref()) else { return Ok(None) };
        let no_address = || {
            unusable(
                "SMTP_URL",
                "write smtps://user:password@host:port, or smtp://… for a server with STARTTLS",
            )
        };
        let url: Url = url.expose_secret().parse().map_err(|_| no_address())?;
        let (security, port) = match url.scheme() {
            "smtps" => (Security::Always, SMTPS_PORT),
            "smtp" if self.allow_insecure_smtp => (Security::WhereOffered, SMTP_PORT),
            "smtp" => (Security::StartTls, SMTP_PORT),
            _ => return Err(no_address()),
        };
        let beyond = !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some();
        let host = url.host_str().filter(|host| !host.is_empty() && !beyond).ok_or_else(no_address)?;
        // An IPv6 address must have no brackets for the connection and the certificate check.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let authorities = certificates("SMTP_CA_FILE", self.smtp_ca_file.as_ref())?;
        let address = (host, url.port().unwrap_or(port));
        let login = login(&url).ok_or_else(|| {
            unusable("SMTP_URL", "write both user and password, with %40 for @, %2F for / and %25 for %")
        })?;
        MailServer::new(address, security, login, authorities.as_deref(), domain)
            .map(Some)
            .map_err(|_| unusable("SMTP_URL", "no TLS connection can be set up for its host"))
    }
}

fn is_ascii(address: &Address) -> bool {
    AsRef::<str>::as_ref(address).is_ascii()
}

/// Reads user and password from the URL. `Some(None)`: the URL has neither. `None`: one is missing or unreadable.
#[expect(clippy::option_option, reason = "no login and half a login are different results")]
fn login(url: &Url) -> Option<Option<(String, String)>> {
    let decoded = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    match (url.username(), url.password()) {
        ("", None) => Some(None),
        ("", Some(_)) | (_, None) => None,
        (user, Some(password)) => Some(Some((decoded(user)?, decoded(password)?))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        email: EmailSettings,
    }

    fn config(args: &[&str]) -> Result<Option<EmailConfig>, SettingsError> {
        let args = ["x"].iter().chain(args);
        Command::try_parse_from(args).unwrap().email.config()
    }

    #[test]
    fn mail_is_off_unless_a_server_is_set() {
        assert!(config(&[]).unwrap().is_none());
        assert!(config(&["--email-from", "a@shop.example", "--smtp-url", " "]).unwrap().is_none());
        let email = config(&["--email-from", "Shop <a@shop.example>", "--smtp-url", "smtps://m.example"]);
        let email = email.unwrap().unwrap();
        assert_eq!(email.card, CardForm::Nothing, "no card is mailed unless a setting allows it");
        assert!(email.operator.is_empty());
    }

    #[test]
    fn the_operator_may_have_several_addresses() {
        let args = [
            "--email-from",
            "a@shop.example",
            "--smtp-url",
            "smtp://user%40shop:p%2Fw@m.example:2525",
            "--operator-email",
            "x@shop.example, Night <y@shop.example>",
        ];
        let operator = config(&args).unwrap().unwrap().operator;
        assert_eq!(
            operator.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["x@shop.example", "y@shop.example"]
        );
    }

    #[test]
    fn the_addresses_in_every_mail_must_be_ascii() {
        for (from, operator, refused) in [
            ("Café <a@shop.example>", "x@shop.example", None),
            ("café@shop.example", "x@shop.example", Some("EMAIL_FROM")),
            ("a@café.example", "x@shop.example", Some("EMAIL_FROM")),
            ("a@shop.example", "x@shop.example, é@shop.example", Some("OPERATOR_EMAIL")),
        ] {
            let args =
                ["--smtp-url", "smtps://m.example", "--email-from", from, "--operator-email", operator];
            let error = config(&args).err().map(|error| error.to_string());
            let named = error.as_deref().and_then(|error| error.split(' ').next());
            assert_eq!(named, refused, "{error:?}");
        }
    }

    #[test]
    fn user_and_password_may_be_encoded_and_go_together() {
        let read = |url: &str| login(&url.parse().unwrap());
        assert_eq!(
            read("smtp://user%40shop:p%2Fw@m.example"),
            Some(Some(("user@shop".to_owned(), "p/w".to_owned())))
        );
        assert_eq!(read("smtp://m.example"), Some(None));
        assert_eq!(read("smtp://user@m.example"), None);
        assert_eq!(read("smtp://user:%ff@m.example"), None);
    }
}
