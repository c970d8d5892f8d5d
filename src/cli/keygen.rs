//! `topup-worker keygen`: prints a new key and nothing else, so that a shell can assign it to a variable.

use secrecy::ExposeSecret;

use super::say;
use crate::orders::CardCipher;

pub(super) fn keygen() -> anyhow::Result<()> {
    say(CardCipher::generate_key().expose_secret())
}
