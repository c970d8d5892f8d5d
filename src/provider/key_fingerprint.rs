//! Fingerprints that tell API keys apart without revealing them.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// The first six bytes of an API key's SHA-256, in hexadecimal. The names of keys in Redis contain it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFingerprint(String);

impl KeyFingerprint {
    /// The fingerprint of `key`. Spaces around the key are ignored.
    #[must_use]
    pub fn new(key: &SecretString) -> Self {
        let hash = Sha256::digest(key.expose_secret().trim());
        // Six bytes are too few to recover the key, and enough to tell keys apart.
        Self(hex::encode(&hash[..6]))
    }

    /// Twelve hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
