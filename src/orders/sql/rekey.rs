//! Encrypts stored cards with the current key.
//!
//! A card is replaced only if it still is what was read, so workers may go on meanwhile; and one that is under
//! the current key already is left, so it may be interrupted and begun again.

use secrecy::ExposeSecret;
use topup_jobs::{NotifyCustomer, TopupId};

use super::database::Database;
use super::statement::sql;
use crate::orders::reveal::hash;
use crate::orders::{CardCipher, StoreError};

/// What became of some stored cards when they were encrypted again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// Encrypted with the current key.
    pub encrypted: u64,
    /// Were so already.
    pub current: u64,
    /// Changed by another command or worker meanwhile, and left.
    pub left: u64,
    /// Cannot be decrypted with any key.
    pub unreadable: Vec<TopupId>,
    /// The last order looked at; none where there was no more.
    pub last: Option<TopupId>,
}

pub(super) async fn rekey(
    database: &Database,
    cipher: &CardCipher,
    behind: Option<&TopupId>,
    most: u32,
) -> Result<Rekeyed, StoreError> {
    let select = sql("SELECT topup_id, card_code FROM internet_orders
         WHERE card_code IS NOT NULL AND topup_id > $1 ORDER BY topup_id LIMIT $2");
    // Every id is behind the empty text.
    let rows = database.fetch(select.bind(behind.map_or("", TopupId::as_str)).bind(most)).await?;
    let mut done = Rekeyed::default();
    let mut transaction = database.begin().await?;
    for row in rows {
        let topup_id: TopupId = row.parse("topup_id")?;
        let stored: String = row.get("card_code")?;
        match cipher.encrypt_again(&stored) {
            Ok(None) => done.current += 1,
            Ok(Some(sealed)) => {
                let replace =
                    sql("UPDATE internet_orders SET card_code = $1 WHERE topup_id = $2 AND card_code = $3");
                let replace = replace.bind(sealed).bind(topup_id.as_str()).bind(stored);
                match transaction.execute(replace).await? {
                    0 => done.left += 1,
                    _ => done.encrypted += 1,
                }
            }
            Err(_) => done.unreadable.push(topup_id.clone()),
        }
        done.last = Some(topup_id);
    }
    transaction.commit().await?;
    Ok(done)
}

/// Events with a pending notification that carries a link whose token the current key does not make: without the key that
/// has made it, the next attempt would carry another link.
pub(super) async fn links_of_previous_keys(
    database: &Database,
    cipher: &CardCipher,
) -> Result<u64, StoreError> {
    let select = sql("SELECT notification.topup_id, notification.outcome, notification.incident, notification.channel, reveals.token_hash
         FROM notifications notification
         JOIN reveals ON reveals.topup_id = notification.topup_id AND reveals.channel = notification.channel
         WHERE notification.status = 'pending'");
    let mut of_previous = 0;
    for row in database.fetch(select).await? {
        let notification = NotifyCustomer {
            topup_id: row.parse("topup_id")?,
            outcome: row.parse("outcome")?,
            incident: row.incident("incident")?,
            channel: row.get("channel")?,
        };
        let token_hash: String = row.get("token_hash")?;
        let mut tokens = cipher.link_tokens(&notification).map(|token| hash(token.expose_secret()));
        let of_current = tokens.next().is_some_and(|current| current == token_hash);
        of_previous += u64::from(!of_current && tokens.any(|previous| previous == token_hash));
    }
    Ok(of_previous)
}
