//! Signs webhooks as Standard Webhooks 1.0 requires. A test compares with the published test vector.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

/// One or more signing secrets, the newest first.
#[derive(Clone)]
pub struct WebhookSecret(Arc<[standardwebhooks::Webhook]>);

/// A webhook secret is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the webhook secret must be \"whsec_\" and 24 to 64 bytes in base64; several are separated by spaces or commas"
)]
pub struct InvalidSecret;

impl WebhookSecret {
    /// Parses one or more `whsec_…`, separated by spaces or commas.
    ///
    /// # Errors
    /// [`InvalidSecret`] if a secret is malformed or the text contains none.
    pub fn parse(text: &SecretString) -> Result<Self, InvalidSecret> {
        let signers = words(text).map(|word| {
            // Standard Webhooks requires 24 to 64 bytes: 32 to 88 characters of base64.
            let encoded = word.strip_prefix("whsec_").ok_or(InvalidSecret)?;
            let fits = (32..=88).contains(&encoded.len());
            standardwebhooks::Webhook::new(word).ok().filter(|_| fits).ok_or(InvalidSecret)
        });
        let signers = signers.collect::<Result<Vec<_>, _>>()?;
        if signers.is_empty() { Err(InvalidSecret) } else { Ok(Self(signers.into())) }
    }

    /// Returns the header `webhook-signature`, one signature for each secret; `None` if the id cannot be signed.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
        let signatures: Option<Vec<_>> =
            self.0.iter().map(|signer| signer.sign(id, timestamp, body).ok()).collect();
        signatures.map(|signatures| signatures.join(" "))
    }
}

/// Splits a setting with secrets at whitespace and commas.
pub(super) fn words(text: &SecretString) -> impl Iterator<Item = &str> {
    let words = text.expose_secret().split(|c: char| c == ',' || c.is_whitespace());
    words.filter(|word| !word.is_empty())
}

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    /// Secret, id, time and body are the test vector that the Standard Webhooks libraries publish.
    #[test]
    fn a_signature_equals_the_published_vector() {
        let secret = WebhookSecret::parse(&SECRET.into()).unwrap();
        let signature =
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature.as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn each_of_several_secrets_signs() {
        let two = format!("{SECRET} whsec_{}", "B".repeat(32));
        let signature = WebhookSecret::parse(&two.into()).unwrap().sign("evt", 1, b"{}").unwrap();
        assert_eq!(signature.split(' ').filter(|one| one.starts_with("v1,")).count(), 2);
        for bad in ["", "secret", "whsec_", "whsec_short", &format!("{SECRET} nonsense")] {
            assert_eq!(WebhookSecret::parse(&bad.into()).err(), Some(InvalidSecret), "{bad}");
        }
    }
}
