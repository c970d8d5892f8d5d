//! Keys of the provider's API, told apart.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// Which key of the provider's API this is, and nothing of what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFingerprint(String);

impl KeyFingerprint {
    /// Of this key.
    #[must_use]
    pub fn new(key: &SecretString) -> Self {
        let hash = Sha256::digest(key.expose_secret().trim());
        // Few enough bytes that nothing can be made of them, and enough to differ.
        Self(hex::encode(&hash[..6]))
    }

    /// Twelve hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
