//! Encryption of stored card codes, in the form that the provider's guide documents ("Security best practices").
//!
//! The form is AES-256-GCM with a random 16-byte IV, stored as JSON of hex strings
//! `{"iv":…,"encryptedData":…,"authTag":…}`, so that a merchant's existing Node, Python or PHP code can read it. The
//! key is `ENCRYPTION_KEY`, 64 hex digits. During a change of keys the current key encrypts, and the current
//! and previous keys decrypt; `topup-worker rekey` completes the change.

use std::collections::BTreeSet;

use aes_gcm::aead::consts::U16;
use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{AesGcm, aes::Aes256};
use hmac::{Hmac, Mac};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use topup_jobs::{NotifyCustomer, Secret};

type Cipher = AesGcm<Aes256, U16>;
const TAG_BYTES: usize = 16;
/// Fewest distinct bytes in a key. A short pattern has fewer; a random key has fewer with a chance below 1 in 2^60.
const FEWEST_BYTES: usize = 14;
/// Label in the hash that gives a key's fingerprint. It makes the fingerprint differ from all other hashes of the key.
const FINGERPRINT: &[u8] = b"topup-worker: fingerprint of a key of the cards, 1";
/// Bytes of a fingerprint, enough to tell the keys of a deployment apart.
const FINGERPRINT_BYTES: usize = 8;
/// Label in the hash that gives the key of the links. It makes that key differ from the key that encrypts the cards.
const LINKS: &[u8] = b"topup-worker: links to a card, 1";
/// Bytes of a link's token: 128 bits cannot be guessed, and the link still fits into an SMS.
const TOKEN_BYTES: usize = 16;

/// Encrypts and decrypts card codes, and computes the tokens of the links to them.
#[derive(Clone)]
pub struct CardCipher {
    current: Key,
    previous: Vec<Key>,
}

/// The values derived from one `ENCRYPTION_KEY`.
#[derive(Clone)]
struct Key {
    cards: Cipher,
    links: Hmac<Sha256>,
    fingerprint: String,
}

/// An unusable encryption key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// The key is not 64 hexadecimal digits.
    #[error("ENCRYPTION_KEY must be 64 hexadecimal digits; `topup-worker keygen` prints a new one")]
    Form,
    /// The key is one repeated byte, a short pattern or a number sequence, so others can guess it.
    #[error(
        "ENCRYPTION_KEY is easily guessed: it repeats a short pattern. `topup-worker keygen` prints a random one; if \
         cards are stored already, keep this one in ENCRYPTION_KEYS_PREVIOUS and run `topup-worker rekey`"
    )]
    Guessable,
}

/// A stored card code cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecryptionError {
    /// The stored text is not in the documented form.
    #[error("a stored card code is not in the documented form")]
    Form,
    /// No key decrypts the code: another key encrypted it, or it was modified.
    #[error("a stored card code cannot be decrypted with ENCRYPTION_KEY or ENCRYPTION_KEYS_PREVIOUS")]
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

impl Key {
    fn new(key: &SecretString) -> Result<Self, InvalidKey> {
        let bytes = hex::decode(key.expose_secret()).map_err(|_| InvalidKey::Form)?;
        let cards = Cipher::new_from_slice(&bytes).map_err(|_| InvalidKey::Form)?;
        let derived = |purpose| hmac(&bytes).chain_update(purpose).finalize().into_bytes();
        let fingerprint = hex::encode(&derived(FINGERPRINT)[..FINGERPRINT_BYTES]);
        Ok(Self { cards, links: hmac(&derived(LINKS)), fingerprint })
    }

    /// Like [`Key::new`], but for a key that encrypts. Such a key must not be easily guessed.
    fn hard_to_guess(key: &SecretString) -> Result<Self, InvalidKey> {
        let made = Self::new(key)?;
        let bytes = hex::decode(key.expose_secret()).map_err(|_| InvalidKey::Form)?;
        let different = bytes.iter().collect::<BTreeSet<_>>().len();
        // `steps` is 1 for an arithmetic sequence of bytes, such as 00 01 02 …
        let steps = bytes.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect::<BTreeSet<_>>().len();
        if different < FEWEST_BYTES || steps == 1 { Err(InvalidKey::Guessable) } else { Ok(made) }
    }

    fn decrypt(&self, sealed: &Sealed) -> Result<Secret, DecryptionError> {
        let mut data = sealed.encrypted_data.clone();
        data.extend_from_slice(&sealed.auth_tag);
        let clear =
            self.cards.decrypt(&sealed.iv.into(), data.as_slice()).map_err(|_| DecryptionError::Key)?;
        String::from_utf8(clear).map(Secret::new).map_err(|_| DecryptionError::Form)
    }

    fn link_token(&self, notification: &NotifyCustomer) -> String {
        // Event ids contain no line break, so different pairs of event and channel give different texts.
        let event = format!("{}\n{}", notification.event_id(), notification.channel);
        let code = self.links.clone().chain_update(event).finalize().into_bytes();
        hex::encode(&code[..TOKEN_BYTES])
    }
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    // Invariant: HMAC accepts keys of any length.
    Hmac::new_from_slice(key).expect("HMAC takes any key")
}

impl CardCipher {
    /// Creates a cipher that encrypts and decrypts with this key.
    ///
    /// # Errors
    /// [`InvalidKey`] if the key is not 64 hexadecimal digits or is easily guessed.
    pub fn new(key: &SecretString) -> Result<Self, InvalidKey> {
        Ok(Self { current: Key::hard_to_guess(key)?, previous: Vec::new() })
    }

    /// Adds a previous key, which only decrypts. An easily guessed one is accepted, so that the cards encrypted with it
    /// can be decrypted and encrypted with a better key.
    ///
    /// # Errors
    /// [`InvalidKey::Form`] if the key is not 64 hexadecimal digits.
    pub fn with_previous(mut self, key: &SecretString) -> Result<Self, InvalidKey> {
        self.previous.push(Key::new(key)?);
        Ok(self)
    }

    /// Generates a random key, as 64 hexadecimal digits.
    #[must_use]
    pub fn generate_key() -> SecretString {
        hex::encode(rand::rng().random::<[u8; 32]>()).into()
    }

    /// Encrypts a card code with the current key, into the stored form.
    ///
    /// # Panics
    /// Never: AES-GCM fails only beyond 64 GiB.
    #[must_use]
    pub fn encrypt(&self, card_code: &Secret) -> String {
        let iv: [u8; 16] = rand::rng().random();
        let sealed = self.current.cards.encrypt(&iv.into(), card_code.reveal().as_bytes());
        // Invariant: a card code is far below AES-GCM's limit of 64 GiB.
        let mut encrypted_data = sealed.expect("a card code is short");
        let tag = encrypted_data.split_off(encrypted_data.len() - TAG_BYTES);
        let mut auth_tag = [0; TAG_BYTES];
        auth_tag.copy_from_slice(&tag);
        // Invariant: three hex strings always serialize.
        serde_json::to_string(&Sealed { iv, encrypted_data, auth_tag }).expect("hex strings serialize")
    }

    /// Decrypts a stored card code with the current key or a previous one.
    ///
    /// # Errors
    /// [`DecryptionError`] if the form is not the documented one or no key decrypts the code.
    pub fn decrypt(&self, stored: &str) -> Result<Secret, DecryptionError> {
        let sealed = Sealed::read(stored)?;
        match self.current.decrypt(&sealed) {
            Err(DecryptionError::Key) => self.decrypt_with_previous(&sealed),
            decrypted => decrypted,
        }
    }

    /// Encrypts a stored card code with the current key; `None` if that key encrypted it already.
    ///
    /// # Errors
    /// As [`CardCipher::decrypt`].
    pub fn encrypt_again(&self, stored: &str) -> Result<Option<String>, DecryptionError> {
        let sealed = Sealed::read(stored)?;
        match self.current.decrypt(&sealed) {
            Err(DecryptionError::Key) => {
                self.decrypt_with_previous(&sealed).map(|card_code| Some(self.encrypt(&card_code)))
            }
            decrypted => decrypted.map(|_| None),
        }
    }

    /// Fingerprints of the keys, 16 hexadecimal digits each, the current key's first. A fingerprint is part of a keyed
    /// hash: it tells keys apart, and no key can be computed from it.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<&str> {
        let keys = std::iter::once(&self.current).chain(&self.previous);
        keys.map(|key| key.fingerprint.as_str()).collect()
    }

    /// Fingerprint of the key that encrypts.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.current.fingerprint
    }

    fn decrypt_with_previous(&self, sealed: &Sealed) -> Result<Secret, DecryptionError> {
        let mut tried = self.previous.iter().map(|key| key.decrypt(sealed));
        tried.find(|tried| *tried != Err(DecryptionError::Key)).unwrap_or(Err(DecryptionError::Key))
    }

    /// The tokens for the link of this event on this channel, one for each key, the current key's first. A token is a
    /// keyed hash, so every attempt computes the same one again although only the token's hash is stored.
    pub(super) fn link_tokens(&self, notification: &NotifyCustomer) -> impl Iterator<Item = SecretString> {
        let keys = std::iter::once(&self.current).chain(&self.previous);
        keys.map(|key| key.link_token(notification).into())
    }
}

impl Sealed {
    fn read(stored: &str) -> Result<Self, DecryptionError> {
        serde_json::from_str(stored).map_err(|_| DecryptionError::Form)
    }
}

impl std::fmt::Debug for CardCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CardCipher")
    }
}

#[cfg(test)]
mod tests {
    use topup_jobs::{Incident, Outcome};

    use super::*;

    #[test]
    fn an_encrypted_code_decrypts_and_does_not_contain_the_code() {
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

    /// The text was encrypted with Node's `crypto.createCipheriv('aes-256-gcm', key, iv)`, as in the provider's guide.
    #[test]
    fn a_code_encrypted_by_the_guides_node_example_is_decrypted() {
        let cipher =
            CardCipher::new(&"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff".into())
                .unwrap();
        let stored = include_str!("node_sealed.json");
        assert_eq!(cipher.decrypt(stored.trim()).unwrap().reveal(), "123456789012");
    }

    #[test]
    fn a_wrong_key_and_a_wrong_form_are_different_errors() {
        let (one, two) = (CardCipher::generate_key(), CardCipher::generate_key());
        let sealed = CardCipher::new(&one).unwrap().encrypt(&Secret::new("1"));
        let other = CardCipher::new(&two).unwrap();
        assert_eq!(other.decrypt(&sealed), Err(DecryptionError::Key));
        assert_eq!(other.decrypt("{}"), Err(DecryptionError::Form));
        for bad in ["", "abc", &"0".repeat(63), &"g".repeat(64), &"0".repeat(66)] {
            assert_eq!(CardCipher::new(&bad.into()).err(), Some(InvalidKey::Form));
        }
    }

    #[test]
    fn a_guessable_key_is_refused_for_encryption_and_accepted_as_a_previous_key() {
        let counted = hex::encode((0..32).collect::<Vec<u8>>());
        let text = hex::encode("change-me!".repeat(4).split_at(32).0);
        let base64 = hex::encode("QUFBQUFBQUFBQUFB".repeat(2));
        for bad in [&*"0".repeat(64), &"ab".repeat(32), &"deadbeef".repeat(8), &counted, &text, &base64] {
            assert_eq!(CardCipher::new(&bad.into()).err(), Some(InvalidKey::Guessable), "{bad}");
            let good = CardCipher::new(&CardCipher::generate_key()).unwrap();
            assert!(good.with_previous(&bad.into()).is_ok(), "it may still decrypt");
        }
    }

    #[test]
    fn a_fingerprint_tells_keys_apart_and_stays_the_same() {
        let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let (one, other) = (CardCipher::new(&key.into()).unwrap(), CardCipher::generate_key());
        let both = CardCipher::new(&other).unwrap().with_previous(&key.to_uppercase().into()).unwrap();
        assert_eq!(both.fingerprints()[1], one.fingerprint(), "in lower and upper case");
        assert_ne!(both.fingerprint(), one.fingerprint());
        assert!(!key.contains(one.fingerprint()));
        // This fingerprint was computed with Python's `hmac` module.
        assert_eq!(one.fingerprint(), "59aabaed636ff542");
    }

    #[test]
    fn a_previous_key_decrypts_and_the_current_one_encrypts() {
        let (old, older, new) =
            (CardCipher::generate_key(), CardCipher::generate_key(), CardCipher::generate_key());
        let card = Secret::new("123456789012");
        let stored = CardCipher::new(&old).unwrap().encrypt(&card);
        let alone = CardCipher::new(&new).unwrap();
        assert_eq!(alone.encrypt_again(&stored), Err(DecryptionError::Key));
        let both = alone.clone().with_previous(&older).unwrap().with_previous(&old).unwrap();
        assert_eq!(both.decrypt(&stored), Ok(card.clone()));
        let again = both.encrypt_again(&stored).unwrap().expect("another key encrypted it");
        assert_eq!(alone.decrypt(&again), Ok(card), "the previous keys are not needed any more");
        assert_eq!(both.encrypt_again(&again), Ok(None));
        assert_eq!(both.encrypt_again("{}"), Err(DecryptionError::Form));
    }

    #[test]
    fn a_token_depends_on_event_channel_and_key_and_not_on_the_attempt() {
        let notification = |outcome, channel: &str| NotifyCustomer {
            topup_id: "6901616fe9e88196b4eb64b2".parse().unwrap(),
            outcome,
            incident: Incident::FIRST,
            channel: channel.to_owned(),
        };
        let tokens = |cipher: &CardCipher, notification: &NotifyCustomer| -> Vec<String> {
            cipher.link_tokens(notification).map(|token| token.expose_secret().to_owned()).collect()
        };
        let (old, new) = (CardCipher::generate_key(), CardCipher::generate_key());
        let before = CardCipher::new(&old).unwrap();
        let after = CardCipher::new(&new).unwrap().with_previous(&old).unwrap();
        let sms = notification(Outcome::Fulfilled, "sms");
        let first = tokens(&before, &sms);
        assert_eq!(first, tokens(&before, &sms));
        assert!(first[0].len() == 32 && first[0].bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(tokens(&after, &sms)[1..], first, "a previous key still gives the same token");
        let others = [
            tokens(&after, &sms).swap_remove(0),
            tokens(&before, &notification(Outcome::Fulfilled, "email")).remove(0),
            tokens(&before, &notification(Outcome::Refunded, "sms")).remove(0),
        ];
        assert!(!others.contains(&first[0]));
    }

    /// The expected token was computed with Python's `hmac` module.
    #[test]
    fn tokens_do_not_change_between_versions() {
        let cipher =
            CardCipher::new(&"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff".into())
                .unwrap();
        let notification = NotifyCustomer {
            topup_id: "6901616fe9e88196b4eb64b2".parse().unwrap(),
            outcome: Outcome::Fulfilled,
            incident: Incident::FIRST,
            channel: "sms".to_owned(),
        };
        let token = cipher.link_tokens(&notification).next().unwrap();
        assert_eq!(token.expose_secret(), "9d6b23b506af2ae87dfc369f888484cd");
    }
}
