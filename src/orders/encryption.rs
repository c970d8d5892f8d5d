//! Card codes at rest, in the form the provider's guide documents.
//!
//! AES-256-GCM with a random 16-byte IV, stored as JSON of hex strings
//! `{"iv":…,"encryptedData":…,"authTag":…}` (guide "Security best practices"): a merchant's existing
//! Node, Python or PHP code reads what this service stores. The key is `ENCRYPTION_KEY`, 64 hex digits.
//!
//! While a key is being changed there are several: what is written is written with the current one, what is
//! read may have been written with any. `topup-worker rekey` ends that state.

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
/// Fewer different bytes than this are in less than one of 2^60 random keys, and in every short pattern that is repeated.
const FEWEST_BYTES: usize = 14;
/// What the fingerprint of a key is made with, so that it is no other value that is made of it.
const FINGERPRINT: &[u8] = b"topup-worker: fingerprint of a key of the cards, 1";
/// Enough that no two keys of a deployment share one.
const FINGERPRINT_BYTES: usize = 8;
/// What the key of the links is derived with, so that it is not the key of the cards.
const LINKS: &[u8] = b"topup-worker: links to a card, 1";
/// Bytes of a link's token: 128 bits cannot be guessed, and a link must be short enough for an SMS.
const TOKEN_BYTES: usize = 16;

/// Encrypts and decrypts card codes, and makes the tokens of the links to them.
#[derive(Clone)]
pub struct CardCipher {
    current: Key,
    previous: Vec<Key>,
}

/// What is made of one `ENCRYPTION_KEY`.
#[derive(Clone)]
struct Key {
    cards: Cipher,
    links: Hmac<Sha256>,
    fingerprint: String,
}

/// The key is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It is not 64 hexadecimal digits.
    #[error("ENCRYPTION_KEY must be 64 hexadecimal digits; `topup-worker keygen` prints a new one")]
    Form,
    /// It is one byte, a short pattern or a row of numbers: others can guess it.
    #[error(
        "ENCRYPTION_KEY is easily guessed: it repeats a short pattern. `topup-worker keygen` prints a random one; where \
         cards are stored already, keep this one in ENCRYPTION_KEYS_PREVIOUS and run `topup-worker rekey`"
    )]
    Guessable,
}

/// A stored card code cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecryptionError {
    /// The stored text is not the documented form.
    #[error("a stored card code is not in the documented form")]
    Form,
    /// It was encrypted with another key, or has been changed.
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

    /// The same, of a key that cards are to be encrypted with.
    fn hard_to_guess(key: &SecretString) -> Result<Self, InvalidKey> {
        let made = Self::new(key)?;
        let bytes = hex::decode(key.expose_secret()).map_err(|_| InvalidKey::Form)?;
        let different = bytes.iter().collect::<BTreeSet<_>>().len();
        // 00 01 02 …, or with any other step.
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
        // No event id has a line break in it, so that no two events and channels run into one text.
        let event = format!("{}\n{}", notification.event_id(), notification.channel);
        let code = self.links.clone().chain_update(event).finalize().into_bytes();
        hex::encode(&code[..TOKEN_BYTES])
    }
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    // Invariant: HMAC takes keys of any length.
    Hmac::new_from_slice(key).expect("HMAC takes any key")
}

impl CardCipher {
    /// A cipher with this key.
    ///
    /// # Errors
    /// [`InvalidKey`] unless it is 64 hexadecimal digits and no pattern that others can guess.
    pub fn new(key: &SecretString) -> Result<Self, InvalidKey> {
        Ok(Self { current: Key::hard_to_guess(key)?, previous: Vec::new() })
    }

    /// The same, with one more key that is tried where the others do not decrypt. It may be one that is easily guessed:
    /// cards that were encrypted with it must be read to be encrypted with a better one.
    ///
    /// # Errors
    /// [`InvalidKey::Form`] unless it is 64 hexadecimal digits.
    pub fn with_previous(mut self, key: &SecretString) -> Result<Self, InvalidKey> {
        self.previous.push(Key::new(key)?);
        Ok(self)
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
        let sealed = self.current.cards.encrypt(&iv.into(), card_code.reveal().as_bytes());
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
    /// [`DecryptionError`] where the form is not the documented one or no key fits.
    pub fn decrypt(&self, stored: &str) -> Result<Secret, DecryptionError> {
        let sealed = Sealed::read(stored)?;
        match self.current.decrypt(&sealed) {
            Err(DecryptionError::Key) => self.decrypt_with_previous(&sealed),
            decrypted => decrypted,
        }
    }

    /// The stored form under the current key; nothing where it is under it already.
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

    /// Fingerprints of the keys, sixteen hexadecimal digits each, the current key's first. A fingerprint is part of a
    /// keyed hash: it tells keys apart, and no key can be computed from it.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<&str> {
        let keys = std::iter::once(&self.current).chain(&self.previous);
        keys.map(|key| key.fingerprint.as_str()).collect()
    }

    /// The fingerprint of the key that cards are encrypted with.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.current.fingerprint
    }

    fn decrypt_with_previous(&self, sealed: &Sealed) -> Result<Secret, DecryptionError> {
        let mut tried = self.previous.iter().map(|key| key.decrypt(sealed));
        tried.find(|tried| *tried != Err(DecryptionError::Key)).unwrap_or(Err(DecryptionError::Key))
    }

    /// The tokens that each key makes for the link of this event on this channel, the current key's first.
    ///
    /// A token is no stored randomness but a keyed hash of the event and its receiver, so that every attempt sends
    /// the same link although only the token's own hash is stored.
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
            assert_eq!(CardCipher::new(&bad.into()).err(), Some(InvalidKey::Form));
        }
    }

    #[test]
    fn a_key_that_others_can_guess_encrypts_nothing_and_still_decrypts() {
        let counted = hex::encode((0..32).collect::<Vec<u8>>());
        let text = hex::encode("change-me!".repeat(4).split_at(32).0);
        let base64 = hex::encode("QUFBQUFBQUFBQUFB".repeat(2));
        for bad in [&*"0".repeat(64), &"ab".repeat(32), &"deadbeef".repeat(8), &counted, &text, &base64] {
            assert_eq!(CardCipher::new(&bad.into()).err(), Some(InvalidKey::Guessable), "{bad}");
            let good = CardCipher::new(&CardCipher::generate_key()).unwrap();
            assert!(good.with_previous(&bad.into()).is_ok(), "cards under it can be encrypted anew");
        }
    }

    #[test]
    fn a_fingerprint_tells_keys_apart_and_stays_the_same() {
        let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let (one, other) = (CardCipher::new(&key.into()).unwrap(), CardCipher::generate_key());
        let both = CardCipher::new(&other).unwrap().with_previous(&key.to_uppercase().into()).unwrap();
        assert_eq!(both.fingerprints()[1], one.fingerprint(), "however it is written");
        assert_ne!(both.fingerprint(), one.fingerprint());
        assert!(!key.contains(one.fingerprint()));
        // Computed with Python's `hmac` module.
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
        let again = both.encrypt_again(&stored).unwrap().expect("it was under another key");
        assert_eq!(alone.decrypt(&again), Ok(card), "the previous keys are not needed any more");
        assert_eq!(both.encrypt_again(&again), Ok(None));
        assert_eq!(both.encrypt_again("{}"), Err(DecryptionError::Form));
    }

    #[test]
    fn a_token_is_the_same_at_every_attempt_and_another_for_all_else() {
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
        assert_eq!(tokens(&after, &sms)[1..], first, "a previous key still makes the link it has made");
        let others = [
            tokens(&after, &sms).swap_remove(0),
            tokens(&before, &notification(Outcome::Fulfilled, "email")).remove(0),
            tokens(&before, &notification(Outcome::Refunded, "sms")).remove(0),
        ];
        assert!(!others.contains(&first[0]));
    }

    /// Computed with Python's `hmac` module.
    #[test]
    fn tokens_stay_what_they_are_from_version_to_version() {
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
