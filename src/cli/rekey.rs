//! `topup-worker rekey`: after a change of `ENCRYPTION_KEY`, encrypts every stored card with the current key.
//! The command may be interrupted and repeated, and workers may run meanwhile. It fails if a worker cannot decrypt with
//! the current key. It prints no card, only the ids of orders whose card cannot be decrypted. Once every card is
//! encrypted with the current key and every worker uses it, the store records that no previous key is needed.

use clap::Args;
use tokio::time::{Instant, sleep};

use super::store::must_belong_if_known;
use super::{Exit, connect, failed, say};
use crate::config::{RedisSettings, StoreSettings};
use crate::deployment::{BACK_WITHIN, LOOK_AGAIN, keyrings, unsuited};
use crate::orders::{self, Access, OrderStore, SqlStore, pause_after};

/// Cards per batch. A batch is small, so that workers never wait long for the database.
const BATCH: u32 = 100;

#[derive(Debug, Args)]
pub(super) struct RekeySettings {
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    store: StoreSettings,

    /// Let workers start although some cards cannot be decrypted with any key; these cards stay unreadable
    #[arg(long)]
    forget_lost_keys: bool,
}

pub(super) async fn rekey(settings: &RekeySettings) -> anyhow::Result<Exit> {
    let (url, cipher) = (settings.store.database_url()?, settings.store.cipher()?);
    let current_key = cipher.fingerprint().to_owned();
    let store = orders::open_existing(url, Some(cipher), Access::Write).await?;
    let workers = Workers::look(&store, &settings.redis, &current_key).await?;
    // Records the current key in the store, so that from now on a worker without this key does not start.
    store.look().await?;
    let mut done = encrypt_all(&store).await?;
    let mut other_key = None;
    if let Workers::EncryptWithAnother = workers {
        other_key = other_key_in_use(&settings.redis, &current_key).await?;
        if other_key.is_none() {
            // No worker uses another key any more, but one may have stored a card after `encrypt_all` read that order.
            done.encrypted += encrypt_all(&store).await?.encrypted;
        }
    }
    let links = store.links_of_previous_keys().await?;
    let Done { encrypted, current, left, unreadable } = done;
    for (count, what) in [
        (encrypted, "encrypted with the current key now"),
        (current, "already encrypted with the current key"),
        (left, "not encrypted, because a worker changed it meanwhile"),
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
        say("The unreadable cards stay as they are, and workers start without their key.")?;
        return Ok(Exit::Done);
    }
    if unreadable > 0 {
        say("Add the key of those cards to ENCRYPTION_KEYS_PREVIOUS, and run this again.")?;
    } else if left > 0 {
        say("Keep ENCRYPTION_KEYS_PREVIOUS, and run this again.")?;
    } else if links > 0 {
        say(format_args!(
            "Keep ENCRYPTION_KEYS_PREVIOUS until {links} pending notifications with links of a previous key are sent \
             (their attempts take about three days), and run this again."
        ))?;
    } else {
        store.forget_other_keys().await?;
        say(match workers {
            Workers::Unknown => {
                "ENCRYPTION_KEYS_PREVIOUS may be removed, if every worker had the current key before this command \
                 began; otherwise restart the other workers with the current key, and run this again."
            }
            _ => "ENCRYPTION_KEYS_PREVIOUS may be removed.",
        })?;
        return Ok(Exit::Done);
    }
    Ok(Exit::Failed)
}

#[derive(Default)]
struct Done {
    encrypted: u64,
    current: u64,
    left: u64,
    unreadable: u64,
}

async fn encrypt_all(store: &SqlStore) -> anyhow::Result<Done> {
    let (mut all, mut last) = (Done::default(), None);
    loop {
        let batch = Instant::now();
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
        sleep(pause_after(batch.elapsed())).await;
    }
}

/// The key with which the running workers encrypt, read before any card is changed.
enum Workers {
    /// Redis does not answer, or has recorded neither a worker's keys nor a database.
    Unknown,
    Current,
    /// A worker is registered as encrypting with another key, but every worker can decrypt with the current key.
    EncryptWithAnother,
}

impl Workers {
    /// Reads the workers' keys from Redis. Returns an error if a running worker cannot decrypt with the current key.
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

/// Whether a worker runs. Redis may have lost its data; then workers have up to [`BACK_WITHIN`] to register again.
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

/// Finds a running worker that encrypts with another key than the current one, and returns that key's fingerprint.
async fn other_key_in_use(redis: &RedisSettings, current: &str) -> anyhow::Result<Option<String>> {
    let connection = connect(redis)?;
    let uses = |keys: &[String]| keys.first().is_some_and(|key| key == current);
    let other = unsuited(&connection, &redis.prefix, uses).await.map_err(failed)?;
    Ok(other.and_then(|keys| keys.into_iter().next()))
}
