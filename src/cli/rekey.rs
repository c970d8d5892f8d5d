//! `topup-worker rekey`: after a change of `ENCRYPTION_KEY`, encrypts every stored card with the current key.
//!
//! It may be interrupted and run again, and workers may go on meanwhile: it refuses where one of them cannot decrypt
//! with the current key. No card is printed; an order whose card no key decrypts is named. Once every card is under the
//! current key, and no worker encrypts with another, the store notes that it needs no other.

use clap::Args;
use tokio::time::{Instant, sleep};

use super::store::must_belong_if_known;
use super::{Exit, connect, failed, say};
use crate::config::{RedisSettings, StoreSettings};
use crate::deployment::{BACK_WITHIN, LOOK_AGAIN, keyrings, unsuited};
use crate::orders::{self, Access, OrderStore, SqlStore};

/// Cards of one batch: few enough that a worker never waits long.
const BATCH: u32 = 100;

#[derive(Debug, Args)]
pub(super) struct RekeySettings {
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    store: StoreSettings,

    /// Let workers start without the keys of cards that no key decrypts; these cards stay unreadable
    #[arg(long)]
    forget_lost_keys: bool,
}

pub(super) async fn rekey(settings: &RekeySettings) -> anyhow::Result<Exit> {
    let (url, cipher) = (settings.store.database_url()?, settings.store.cipher()?);
    let current_key = cipher.fingerprint().to_owned();
    let store = orders::open_existing(url, Some(cipher), Access::Write).await?;
    let workers = Workers::look(&store, &settings.redis, &current_key).await?;
    // A worker that lacks the current key must not start from now on.
    store.look().await?;
    let mut done = encrypt_all(&store).await?;
    let mut other_key = None;
    if let Workers::EncryptWithAnother = workers {
        other_key = other_key_in_use(&settings.redis, &current_key).await?;
        if other_key.is_none() {
            // That worker has ended, and may have stored a card meanwhile.
            done.encrypted += encrypt_all(&store).await?.encrypted;
        }
    }
    let links = store.links_of_previous_keys().await?;
    let Done { encrypted, current, left, unreadable } = done;
    for (count, what) in [
        (encrypted, "encrypted with the current key now"),
        (current, "encrypted with it before"),
        (left, "changed meanwhile, and left"),
        (unreadable, "not decrypted by any key"),
    ] {
        say(format_args!("{count:>8}  {what}"))?;
    }
    if let Some(other) = other_key {
        say(format_args!(
            "Keep ENCRYPTION_KEYS_PREVIOUS: a worker still encrypts with another key (fingerprint {other}). Restart \
             every worker with the current ENCRYPTION_KEY, and run this again."
        ))?;
        return Ok(Exit::Failed);
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
        say(match workers {
            Workers::Unknown => {
                "ENCRYPTION_KEYS_PREVIOUS may be removed, if every worker had the current key before this began; \
                 otherwise restart the others with it, and run this again."
            }
            _ => "ENCRYPTION_KEYS_PREVIOUS may be removed.",
        })?;
        return Ok(Exit::Done);
    }
    Ok(Exit::Failed)
}

/// Numbers of cards.
#[derive(Default)]
struct Done {
    encrypted: u64,
    current: u64,
    left: u64,
    unreadable: u64,
}

/// Goes through all cards once.
async fn encrypt_all(store: &SqlStore) -> anyhow::Result<Done> {
    let (mut all, mut last) = (Done::default(), None);
    loop {
        let done = store.rekey(last.as_ref(), BATCH).await?;
        for topup_id in &done.unreadable {
            say(format_args!("the card of order {topup_id} cannot be decrypted with any key"))?;
            all.unreadable += 1;
        }
        all.encrypted += done.encrypted;
        all.current += done.current;
        all.left += done.left;
        last = done.last;
        if last.is_none() {
            return Ok(all);
        }
    }
}

/// The keys of the workers that run, before a card is changed.
enum Workers {
    /// Redis does not answer, or knows of no worker and no database.
    Unknown,
    /// All encrypt with the current key.
    Current,
    /// One encrypted with another key when it last joined. It can decrypt with the current one.
    EncryptWithAnother,
}

impl Workers {
    /// Refuses where a worker could not decrypt what this command is about to encrypt.
    async fn look(store: &SqlStore, redis: &RedisSettings, current: &str) -> anyhow::Result<Self> {
        if !must_belong_if_known(store, redis).await? && !has_workers_soon(redis).await {
            return Ok(Self::Unknown);
        }
        let (connection, names) = (connect(redis)?, &redis.prefix);
        let lacks = unsuited(&connection, names, |keys| keys.iter().any(|key| key == current)).await;
        if let Some(keys) = lacks.map_err(failed)? {
            anyhow::bail!(
                "a worker that runs under {names} (its key has the fingerprint {}) cannot decrypt with the current key \
                 (fingerprint {current}): restart it with the current key in ENCRYPTION_KEY or \
                 ENCRYPTION_KEYS_PREVIOUS, and run this again; no card was changed",
                keys.first().map_or("", String::as_str)
            );
        }
        let known = keyrings(&mut connection.get(), names).await.map_err(failed)?;
        let all_current = known.iter().all(|keys| keys.first().is_some_and(|key| key == current));
        Ok(if all_current { Self::Current } else { Self::EncryptWithAnother })
    }
}

/// Whether workers report where Redis knows of no database: it may have lost its data, of which they tell it again.
async fn has_workers_soon(redis: &RedisSettings) -> bool {
    let Ok(connection) = connect(redis) else { return false };
    let end = Instant::now() + BACK_WITHIN;
    while Instant::now() < end {
        match keyrings(&mut connection.get(), &redis.prefix).await {
            Ok(known) if known.is_empty() => sleep(LOOK_AGAIN).await,
            known => return known.is_ok(),
        }
    }
    false
}

/// The fingerprint of another key that a worker which runs encrypts with.
async fn other_key_in_use(redis: &RedisSettings, current: &str) -> anyhow::Result<Option<String>> {
    let connection = connect(redis)?;
    let uses = |keys: &[String]| keys.first().is_some_and(|key| key == current);
    let other = unsuited(&connection, &redis.prefix, uses).await.map_err(failed)?;
    Ok(other.and_then(|keys| keys.into_iter().next()))
}
