//! Signing secrets of callback hosts: each host has its own, so that one shop cannot forge events for another.
//!
//! A secret is `whsec_` and the base64 of HMAC-SHA256 over a fixed line and the host, keyed with the bytes of the
//! merchant's secret. A derived secret reveals nothing about the secrets of other hosts. A setting can replace a host's
//! secret. Hosts are normalised as for `CALLBACK_ALLOWED_HOSTS`: lower-case ASCII, without port and trailing dot.

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

/// Prefix of the HMAC input. Signed webhooks never begin with it, so no signature can equal the secret of a host.
const CONTEXT: &str = "topup-worker callback host\n";

/// Signing secrets of all callback hosts.
#[derive(Clone)]
pub struct CallbackSecrets {
    /// HMACs that derive the secrets of hosts, one for each secret of the merchant, the newest first.
    merchant: Arc<[Hmac<Sha256>]>,
    /// Secrets from the settings, by host. Several secrets of one host are separated by spaces, the newest first.
    set: Arc<BTreeMap<String, SecretString>>,
}

/// Why the setting for callback secrets is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCallbackSecret {
    /// An entry is not `host=secret`.
    #[error(
        "each must be a host and its secret, such as shop.example.dz=whsec_…; several are separated by spaces or commas"
    )]
    Form,
    /// `CALLBACK_ALLOWED_HOSTS` does not name the host.
    #[error("it names a host that CALLBACK_ALLOWED_HOSTS does not name")]
    Host,
    /// A secret is not valid for signing.
    #[error(transparent)]
    Secret(#[from] InvalidSecret),
}

impl CallbackSecrets {
    /// Derives a secret for each host from the merchant's secret. An entry `host=whsec_…` in `set` replaces the derived
    /// one. Spaces or commas separate the entries; a host with several entries has several secrets.
    ///
    /// # Errors
    /// [`InvalidCallbackSecret`] for an entry of another form, a host that is not allowed or an invalid secret.
    pub fn new(
        merchant: &SecretString,
        set: Option<&SecretString>,
        hosts: &CallbackHosts,
    ) -> Result<Self, InvalidCallbackSecret> {
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

    /// The expected secret was computed with Python's `hmac` module.
    #[test]
    fn a_derived_secret_is_the_same_in_every_version() {
        let secrets = secrets(MERCHANT, None).unwrap();
        assert_eq!(of(&secrets, "shop.example.dz"), "whsec_lDDIqnb7vZiDDcRU3g/rvhKFDBZq+z6hSdtHtFD+jBM=");
    }

    #[test]
    fn every_host_has_its_own_secret_and_spellings_of_one_host_share_it() {
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
    fn during_a_rotation_each_merchant_secret_derives_one() {
        let both = secrets(&format!("{OWN} {MERCHANT}"), None).unwrap();
        let (new, old) = (secrets(OWN, None).unwrap(), secrets(MERCHANT, None).unwrap());
        let host = "shop.example.dz";
        assert_eq!(of(&both, host), format!("{} {}", of(&new, host), of(&old, host)));
    }

    #[test]
    fn a_secret_from_the_settings_replaces_the_derived_one() {
        let set = format!("Shop.example.dz.={OWN},a.partners.example={MERCHANT}\na.partners.example={OWN}");
        let secrets = secrets(MERCHANT, Some(&set)).unwrap();
        assert_eq!(of(&secrets, "shop.example.dz"), OWN);
        assert_eq!(of(&secrets, "a.partners.example"), format!("{MERCHANT} {OWN}"));
        assert!(![OWN, MERCHANT].contains(&&*of(&secrets, "b.partners.example")));
    }

    #[test]
    fn an_invalid_setting_is_rejected() {
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
