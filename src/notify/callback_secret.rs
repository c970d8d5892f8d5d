//! The secrets of callback hosts: each host that receives events has its own, so that one shop cannot sign an event
//! that another would take for genuine.
//!
//! A secret is derived from the merchant's, `whsec_` and the base64 of HMAC-SHA256 over a fixed line and the host, with
//! the bytes of the merchant's secret as its key; from a derived secret nothing can be learned about the others. One
//! may be set for a host instead. What makes the host is what `CALLBACK_ALLOWED_HOSTS` compares: the name in lower case
//! and ASCII, without port and without the dot of the root.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::SecretString;
use sha2::Sha256;
use url::Host;

use super::callback::{CallbackHosts, parse_host};
use super::signature::{InvalidSecret, WebhookSecret, words};

/// Stands before the host, so that nothing else that is signed with the merchant's secret is ever a host's.
const CONTEXT: &str = "topup-worker callback host\n";

/// The secrets of all callback hosts.
#[derive(Clone)]
pub struct CallbackSecrets {
    /// Keyed with the merchant's secrets, the newest first.
    merchant: Arc<[Hmac<Sha256>]>,
    /// Those that were set, by host, the newest first.
    set: Arc<BTreeMap<String, SecretString>>,
}

/// The secrets of callback hosts cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCallbackSecret {
    /// A word is not of the form.
    #[error(
        "each must be a host and its secret, such as shop.example.dz=whsec_…; several are separated by spaces or commas"
    )]
    Form,
    /// A host is none of those that may receive events.
    #[error("it names a host that CALLBACK_ALLOWED_HOSTS does not name")]
    Host,
    /// A secret cannot sign.
    #[error(transparent)]
    Secret(#[from] InvalidSecret),
}

impl CallbackSecrets {
    /// Secrets derived from the merchant's, except for the hosts that have one in `set`: `host=whsec_…`, separated by
    /// spaces or commas; a host that stands there several times has several secrets.
    ///
    /// # Errors
    /// [`InvalidCallbackSecret`] where one of them cannot be used.
    pub fn new(
        merchant: &SecretString,
        set: Option<&SecretString>,
        hosts: &CallbackHosts,
    ) -> Result<Self, InvalidCallbackSecret> {
        // Checks their form.
        WebhookSecret::parse(merchant)?;
        let merchant = words(merchant).map(keyed).collect::<Result<_, _>>()?;
        let mut all = BTreeMap::<String, String>::new();
        for word in set.into_iter().flat_map(words) {
            let (host, secret) = word.split_once('=').ok_or(InvalidCallbackSecret::Form)?;
            let host = parse_host(host).map_err(|_| InvalidCallbackSecret::Form)?;
            if !hosts.name(&host) {
                return Err(InvalidCallbackSecret::Host);
            }
            WebhookSecret::parse(&secret.into())?;
            let secrets = all.entry(host.to_string()).or_default();
            if !secrets.is_empty() {
                secrets.push(' ');
            }
            secrets.push_str(secret);
        }
        let set = all.into_iter().map(|(host, secrets)| (host, secrets.into())).collect();
        Ok(Self { merchant, set: Arc::new(set) })
    }

    /// The secrets of a host, the newest first, separated by spaces.
    #[must_use]
    pub fn of(&self, host: &Host) -> SecretString {
        let host = host.to_string();
        if let Some(set) = self.set.get(&host) {
            return set.clone();
        }
        let derive = |merchant: &Hmac<Sha256>| {
            let code = merchant.clone().chain_update(CONTEXT).chain_update(&host).finalize().into_bytes();
            format!("whsec_{}", STANDARD.encode(code))
        };
        self.merchant.iter().map(derive).collect::<Vec<_>>().join(" ").into()
    }

    /// What signs the events for a host.
    pub(super) fn signer(&self, host: &Host) -> Option<WebhookSecret> {
        WebhookSecret::parse(&self.of(host)).ok()
    }
}

fn keyed(secret: &str) -> Result<Hmac<Sha256>, InvalidSecret> {
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).map_err(|_| InvalidSecret)?;
    Hmac::new_from_slice(&key).map_err(|_| InvalidSecret)
}

impl fmt::Debug for CallbackSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::notify::SsrfGuard;

    const MERCHANT: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OWN: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    fn secrets(merchant: &str, set: Option<&str>) -> Result<CallbackSecrets, InvalidCallbackSecret> {
        let hosts = CallbackHosts::new("shop.example.dz *.partners.example [::1]", SsrfGuard::default());
        CallbackSecrets::new(&merchant.into(), set.map(SecretString::from).as_ref(), &hosts.unwrap())
    }

    fn of(secrets: &CallbackSecrets, host: &str) -> String {
        secrets.of(&parse_host(host).unwrap()).expose_secret().to_owned()
    }

    /// Computed with Python's `hmac` module.
    #[test]
    fn a_derived_secret_stays_what_it_is_from_version_to_version() {
        let secrets = secrets(MERCHANT, None).unwrap();
        assert_eq!(of(&secrets, "shop.example.dz"), "whsec_lDDIqnb7vZiDDcRU3g/rvhKFDBZq+z6hSdtHtFD+jBM=");
    }

    #[test]
    fn every_host_has_a_secret_of_its_own_however_it_is_written() {
        let secrets = secrets(MERCHANT, None).unwrap();
        let shop = of(&secrets, "shop.example.dz");
        for same in ["SHOP.example.dz", "shop.example.dz.", "shop%2Eexample.dz"] {
            assert_eq!(of(&secrets, same), shop, "{same}");
        }
        let mut all = ["shop.example.dz", "a.partners.example", "b.partners.example", "::1"]
            .map(|host| of(&secrets, if host == "::1" { "[::1]" } else { host }))
            .to_vec();
        all.push(MERCHANT.to_owned());
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 5);
    }

    #[test]
    fn an_event_signed_for_one_host_does_not_verify_at_another() {
        let secrets = secrets(MERCHANT, None).unwrap();
        let sign =
            |host: &str| secrets.signer(&parse_host(host).unwrap()).unwrap().sign("evt_1", 1, b"{}").unwrap();
        let shop = standardwebhooks::Webhook::new(&of(&secrets, "shop.example.dz")).unwrap();
        let genuine = shop.sign("evt_1", 1, b"{}").unwrap();
        assert_eq!(sign("shop.example.dz"), genuine);
        assert_ne!(sign("a.partners.example"), genuine);
    }

    #[test]
    fn each_of_the_merchants_secrets_makes_one_while_it_is_exchanged() {
        let both = secrets(&format!("{OWN} {MERCHANT}"), None).unwrap();
        let (new, old) = (secrets(OWN, None).unwrap(), secrets(MERCHANT, None).unwrap());
        let host = "shop.example.dz";
        assert_eq!(of(&both, host), format!("{} {}", of(&new, host), of(&old, host)));
    }

    #[test]
    fn a_secret_that_is_set_for_a_host_takes_the_place_of_the_derived_one() {
        let set = format!("Shop.example.dz.={OWN},a.partners.example={MERCHANT}\na.partners.example={OWN}");
        let secrets = secrets(MERCHANT, Some(&set)).unwrap();
        assert_eq!(of(&secrets, "shop.example.dz"), OWN);
        assert_eq!(of(&secrets, "a.partners.example"), format!("{MERCHANT} {OWN}"));
        assert!(![OWN, MERCHANT].contains(&&*of(&secrets, "b.partners.example")));
    }

    #[test]
    fn what_cannot_be_used_is_no_setting() {
        for (set, expected) in [
            (OWN.to_owned(), InvalidCallbackSecret::Form),
            (format!("https://shop.example.dz={OWN}"), InvalidCallbackSecret::Form),
            (format!("*.partners.example={OWN}"), InvalidCallbackSecret::Form),
            (format!("other.example.dz={OWN}"), InvalidCallbackSecret::Host),
            ("shop.example.dz=whsec_short".to_owned(), InvalidSecret.into()),
        ] {
            assert_eq!(secrets(MERCHANT, Some(&set)).err(), Some(expected), "{set}");
        }
        let hidden = secrets(MERCHANT, Some(&format!("shop.example.dz={OWN}"))).unwrap();
        assert_eq!(format!("{hidden:?}"), "[hidden]");
    }
}
