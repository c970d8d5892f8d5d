//! Card codes at rest, in the form the provider's guide documents.
//!
//! AES-256-GCM with a random 16-byte IV, stored as JSON of hex strings
//! `{"iv":…,"encryptedData":…,"authTag":…}` (guide "Security best practices"): a merchant's existing
//! Node, Python or PHP code reads what this service stores. The key is `ENCRYPTION_KEY`, 64 hex digits.

use aes_gcm::aead::consts::U16;
use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{AesGcm, aes::Aes256};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use topup_jobs::Secret;

type Cipher = AesGcm<Aes256, U16>;
const TAG_BYTES: usize = 16;

/// Encrypts and decrypts card codes.
#[derive(Clone)]
pub struct CardCipher {
    cipher: Cipher,
}

/// The key is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ENCRYPTION_KEY must be 64 hexadecimal digits; `topup-worker keygen` prints a new one")]
pub struct InvalidKey;

/// A stored card code cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecryptionError {
    /// The stored text is not the documented form.
    #[error("a stored card code is not in the documented form")]
    Form,
    /// It was encrypted with another key, or has been changed.
    #[error("a stored card code cannot be decrypted with this ENCRYPTION_KEY")]
    Key,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sealed {
    #[serde(with = "hex")]
    iv: [u8; 16],
    #[serde(with = "hex")]
    encrypted_data: Vec<u8>,
    #[serde(with = "hex")]
    auth_tag: [u8; TAG_BYTES],
}

impl CardCipher {
    /// A cipher with this key.
    ///
    /// # Errors
    /// [`InvalidKey`] unless it is 64 hexadecimal digits.
    pub fn new(key: &SecretString) -> Result<Self, InvalidKey> {
        let bytes = hex::decode(key.expose_secret()).map_err(|_| InvalidKey)?;
        let cipher = Cipher::new_from_slice(&bytes).map_err(|_| InvalidKey)?;
        Ok(Self { cipher })
    }

    /// A new random key, as 64 hexadecimal digits.
    #[must_use]
    pub fn generate_key() -> SecretString {
        hex::encode(rand::rng().random::<[u8; 32]>()).into()
    }

    /// The card code in the form to be stored.
    ///
    /// # Panics
    /// Never: AES-GCM fails only beyond 64 GiB.
    #[must_use]
    pub fn encrypt(&self, card_code: &Secret) -> String {
        let iv: [u8; 16] = rand::rng().random();
        let sealed = self.cipher.encrypt(&iv.into(), card_code.reveal().as_bytes());
        // Invariant: a card code is far below the 64 GiB that AES-GCM takes.
        let mut encrypted_data = sealed.expect("a card code is short");
        let tag = encrypted_data.split_off(encrypted_data.len() - TAG_BYTES);
        let mut auth_tag = [0; TAG_BYTES];
        auth_tag.copy_from_slice(&tag);
        // Invariant: three hex strings always serialize.
        serde_json::to_string(&Sealed { iv, encrypted_data, auth_tag }).expect("hex strings serialize")
    }

    /// The card code of a stored form.
    ///
    /// # Errors
    /// [`DecryptionError`] where the form is not the documented one or the key another.
    pub fn decrypt(&self, stored: &str) -> Result<Secret, DecryptionError> {
        let sealed: Sealed = serde_json::from_str(stored).map_err(|_| DecryptionError::Form)?;
        let mut data = sealed.encrypted_data;
        data.extend_from_slice(&sealed.auth_tag);
        let clear =
            self.cipher.decrypt(&sealed.iv.into(), data.as_slice()).map_err(|_| DecryptionError::Key)?;
        String::from_utf8(clear).map(Secret::new).map_err(|_| DecryptionError::Form)
    }
}

impl std::fmt::Debug for CardCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CardCipher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_reads_back_and_shows_nothing() {
        let cipher = CardCipher::new(&CardCipher::generate_key()).unwrap();
        let code = Secret::new("123456789012");
        let (one, two) = (cipher.encrypt(&code), cipher.encrypt(&code));
        assert_ne!(one, two, "each has its own IV");
        assert!(!one.contains("123456789012"));
        assert_eq!(cipher.decrypt(&one), Ok(code));
        let form: serde_json::Value = serde_json::from_str(&one).unwrap();
        assert_eq!(form["iv"].as_str().unwrap().len(), 32);
        assert_eq!(form["encryptedData"].as_str().unwrap().len(), 24);
        assert_eq!(form["authTag"].as_str().unwrap().len(), 32);
    }

    /// Made with Node's `crypto.createCipheriv('aes-256-gcm', key, iv)` as in the provider's guide.
    #[test]
    fn what_the_guides_node_code_stored_is_read() {
        let cipher =
            CardCipher::new(&"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff".into())
                .unwrap();
        let stored = include_str!("node_sealed.json");
        assert_eq!(cipher.decrypt(stored.trim()).unwrap().reveal(), "123456789012");
    }

    #[test]
    fn another_key_or_form_is_told() {
        let (one, two) = (CardCipher::generate_key(), CardCipher::generate_key());
        let sealed = CardCipher::new(&one).unwrap().encrypt(&Secret::new("1"));
        let other = CardCipher::new(&two).unwrap();
        assert_eq!(other.decrypt(&sealed), Err(DecryptionError::Key));
        assert_eq!(other.decrypt("{}"), Err(DecryptionError::Form));
        for bad in ["", "abc", &"0".repeat(63), &"g".repeat(64), &"0".repeat(66)] {
            assert_eq!(CardCipher::new(&bad.into()).err(), Some(InvalidKey));
        }
    }
}
