//! `topup-worker rekey`: after a change of `ENCRYPTION_KEY`, encrypts every stored card with the current key.
//!
//! It may be interrupted and run again, and workers may go on meanwhile. No card is printed; an order whose
//! card no key decrypts is named. Once every card is under the current key, the store notes that it needs no other.

use clap::Args;

use super::{Exit, say};
use crate::config::StoreSettings;
use crate::orders::{self, Access, OrderStore};

/// Cards of one batch: few enough that a worker never waits long.
const BATCH: u32 = 100;

#[derive(Debug, Args)]
pub(super) struct RekeySettings {
    #[command(flatten)]
    store: StoreSettings,

    /// Let workers start without the keys of cards that no key decrypts; these cards stay unreadable
    #[arg(long)]
    forget_lost_keys: bool,
}

pub(super) async fn rekey(settings: &RekeySettings) -> anyhow::Result<Exit> {
    let (url, cipher) = (settings.store.database_url()?, settings.store.cipher()?);
    let store = orders::open_existing(url, Some(cipher), Access::Write).await?;
    let (mut encrypted, mut current, mut left, mut unreadable) = (0, 0, 0, 0);
    let mut last = None;
    loop {
        let done = store.rekey(last.as_ref(), BATCH).await?;
        for topup_id in &done.unreadable {
            say(format_args!("the card of order {topup_id} cannot be decrypted with any key"))?;
        }
        encrypted += done.encrypted;
        current += done.current;
        left += done.left;
        unreadable += done.unreadable.len();
        if done.last.is_none() {
            break;
        }
        last = done.last;
    }
    let links = store.links_of_previous_keys().await?;
    for (count, what) in [
        (encrypted, "encrypted with the current key now"),
        (current, "encrypted with it before"),
        (left, "changed meanwhile, and left"),
        (unreadable as u64, "not decrypted by any key"),
    ] {
        say(format_args!("{count:>8}  {what}"))?;
    }
    if unreadable > 0 && settings.forget_lost_keys && left == 0 && links == 0 {
        store.forget_other_keys().await?;
        say("Those cards stay as they are, and workers start without their key.")?;
        return Ok(Exit::Done);
    }
    if unreadable > 0 {
        say("Add the key of those cards to ENCRYPTION_KEYS_PREVIOUS, and run this again.")?;
    } else if left > 0 {
        say("Keep ENCRYPTION_KEYS_PREVIOUS, and run this again.")?;
    } else if links > 0 {
        say(format_args!(
            "Keep ENCRYPTION_KEYS_PREVIOUS until {links} links that were made with one of its keys have \
             arrived, three days at most, and run this again."
        ))?;
    } else {
        store.forget_other_keys().await?;
        say(
            "ENCRYPTION_KEYS_PREVIOUS may be removed, if every worker had the current key before this began; otherwise \
             restart the others with it, and run this again.",
        )?;
        return Ok(Exit::Done);
    }
    Ok(Exit::Failed)
}
