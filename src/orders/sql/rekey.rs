//! Encrypts stored cards with the current key.
//!
//! A card is replaced only if it has not changed since it was read, so workers may run at the same time. A card that
//! the current key encrypted is skipped, so an interrupted run can be repeated.

use secrecy::ExposeSecret;
use topup_jobs::{NotifyCustomer, TopupId};

use super::database::Database;
use super::statement::sql;
use crate::orders::reveal::hash;
use crate::orders::{CardCipher, StoreError};

/// Result of encrypting one page of stored cards again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// Cards that are now encrypted with the current key.
    pub encrypted: u64,
    /// Cards that the current key had encrypted already.
    pub current: u64,
    /// Cards skipped because another command or worker changed them meanwhile.
    pub left: u64,
    /// Orders whose card no key decrypts.
    pub unreadable: Vec<TopupId>,
    /// The last order examined; `None` if there were no more.
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
    // Without a cursor the search starts at the empty text, which sorts before every id.
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

/// Number of pending notifications whose stored link has a token of a previous key. Without that key the next attempt
/// would send a different link.
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
