//! `topup-worker keygen`: the key and nothing else, so that it can be put into a variable.

use secrecy::ExposeSecret;

use super::say;
use crate::orders::CardCipher;

pub(super) fn keygen() -> anyhow::Result<()> {
    say(CardCipher::generate_key().expose_secret())
}
