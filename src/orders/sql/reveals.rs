//! The table `reveals`: the links that show a card once.

use secrecy::{ExposeSecret, SecretString};
use topup_jobs::{NotifyCustomer, Timestamp};

use super::database::{Database, Transaction};
use super::history;
use super::statement::{Row, Statement, sql};
use crate::orders::reveal::hash;
use crate::orders::{CardCipher, Occurrence, Reveal, RevealOutcome, StoreError};

/// Tries at a link that is no longer valid are recorded only until the order's history holds this number of tries.
const MAX_TRACES: i64 = 50;

pub(super) async fn token(
    database: &Database,
    cipher: &CardCipher,
    notification: &NotifyCustomer,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<SecretString, StoreError> {
    let select = sql("SELECT token_hash FROM reveals WHERE topup_id = $1 AND channel = $2");
    let rows = database
        .fetch(select.bind(notification.topup_id.as_str()).bind(notification.channel.as_str()))
        .await?;
    let stored = rows.iter().map(|row| row.get("token_hash")).collect::<Result<Vec<String>, _>>()?;
    let mut current = None;
    for token in cipher.link_tokens(notification) {
        let hash = hash(token.expose_secret());
        if stored.contains(&hash) {
            // A late attempt extends the link, so that a link delivered late is valid as long as any other.
            let prolong = sql("UPDATE reveals SET expires_at = $1
                 WHERE token_hash = $2 AND revealed_at IS NULL AND expires_at < $1")
            .bind(expires_at)
            .bind(hash.as_str());
            let mut transaction = database.begin().await?;
            transaction.execute(prolong).await?;
            transaction.commit().await?;
            return Ok(token);
        }
        current.get_or_insert(token);
    }
    // Invariant: `link_tokens` yields at least the token of the current key.
    let token = current.expect("there is a current key");
    let mut transaction = database.begin().await?;
    insert(&mut transaction, &hash(token.expose_secret()), notification, now, expires_at).await?;
    transaction.commit().await?;
    Ok(token)
}

/// Stores a link unless it is stored.
pub(super) async fn insert(
    open: &mut Transaction,
    token_hash: &str,
    notification: &NotifyCustomer,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<(), StoreError> {
    let insert = sql("INSERT INTO reveals (token_hash, topup_id, channel, created_at, expires_at, tries)
         VALUES ($1, $2, $3, $4, $5, 0) ON CONFLICT (token_hash) DO NOTHING RETURNING token_hash")
    .bind(token_hash)
    .bind(notification.topup_id.as_str())
    .bind(notification.channel.as_str())
    .bind(now)
    .bind(expires_at);
    let stored = sql("SELECT token_hash FROM reveals WHERE token_hash = $1").bind(token_hash);
    open.insert("reveals", insert, stored).await.map(drop)
}

pub(super) async fn reveal(database: &Database, token: &str) -> Result<Option<Reveal>, StoreError> {
    database.fetch_optional(select(hash(token))).await?.map(|row| read(&row)).transpose()
}

pub(super) fn select(token_hash: String) -> Statement {
    sql("SELECT topup_id, channel, expires_at, tries, revealed_at FROM reveals WHERE token_hash = $1")
        .bind(token_hash)
}

pub(super) fn read(row: &Row) -> Result<Reveal, StoreError> {
    Ok(Reveal {
        topup_id: row.parse("topup_id")?,
        channel: row.get("channel")?,
        expires_at: row.get("expires_at")?,
        tries: row.count("tries")?,
        revealed_at: row.get("revealed_at")?,
    })
}

pub(super) async fn try_reveal(
    database: &Database,
    token: &str,
    right: bool,
    most_tries: u32,
    now: Timestamp,
) -> Result<RevealOutcome, StoreError> {
    let mut transaction = database.begin().await?;
    let token_hash = hash(token);
    // One statement checks and counts the try, so of two concurrent tries the second sees the result of the first.
    let count = sql("UPDATE reveals SET tries = tries + 1, revealed_at = CASE WHEN $1 THEN $2 END
         WHERE token_hash = $3 AND revealed_at IS NULL AND expires_at > $2 AND tries < $4
         RETURNING topup_id, channel, expires_at, tries, revealed_at")
    .bind(right)
    .bind(now)
    .bind(token_hash.as_str())
    .bind(most_tries);
    let (link, outcome) = if let Some(row) = transaction.fetch_optional(count).await? {
        let link = read(&row)?;
        let left = most_tries.saturating_sub(link.tries);
        (link, if right { RevealOutcome::Shown } else { RevealOutcome::Wrong { left } })
    } else {
        let Some(row) = transaction.fetch_optional(select(token_hash)).await? else {
            return Ok(RevealOutcome::Unknown);
        };
        let link = read(&row)?;
        let outcome = match link.revealed_at {
            Some(_) => RevealOutcome::AlreadyShown,
            None if link.expires_at <= now => RevealOutcome::Expired,
            // The link was open, but the try was not counted: a trigger or rule of the operator suppressed the update.
            None if link.tries < most_tries => return Err(StoreError::NotStored("reveals")),
            None => RevealOutcome::Spent,
        };
        // A link that is no longer valid can be tried without limit, and such tries must not fill the history.
        let traces =
            sql("SELECT count(*) AS traces FROM order_events WHERE topup_id = $1 AND kind = 'reveal'");
        let traces = traces.bind(link.topup_id.as_str());
        let traces: i64 = match transaction.fetch_optional(traces).await? {
            Some(row) => row.get("traces")?,
            None => 0,
        };
        if traces >= MAX_TRACES {
            return Ok(outcome);
        }
        (link, outcome)
    };
    let result = outcome.as_str().to_owned();
    let what = Occurrence::Asked { channel: link.channel, tries: link.tries, result };
    history::add(&mut transaction, &link.topup_id, now, what).await?;
    transaction.commit().await?;
    Ok(outcome)
}
