//! The tables `topup_store` (id of the store) and `store_keys` (fingerprints of the keys that may encrypt cards).
//!
//! A worker records the fingerprint of its current key before that key encrypts a card. A worker that lacks a recorded
//! key does not start. Before a worker records a new key, its keys must decrypt at least one of a sample
//! of the cards, unless there is none or all are malformed.

use super::database::{Database, Transaction};
use super::schema::{self, Marks};
use super::statement::{Statement, sql};
use crate::orders::{CardCipher, DecryptionError, KeysRefused, Sample, StoreError};

/// Selects the 20 oldest and the 20 newest cards. An order's id begins with its time, so the sort is by id.
pub(in crate::orders) fn some_cards() -> Statement {
    sql("SELECT card_code FROM (SELECT card_code FROM internet_orders WHERE card_code IS NOT NULL
             ORDER BY topup_id LIMIT 20) oldest
         UNION SELECT card_code FROM (SELECT card_code FROM internet_orders WHERE card_code IS NOT NULL
             ORDER BY topup_id DESC LIMIT 20) newest")
}

impl Sample {
    /// Tries the keys on one more card and counts the result.
    pub(in crate::orders) fn add(&mut self, cipher: &CardCipher, stored: &str) {
        self.cards += 1;
        match cipher.encrypt_again(stored) {
            Ok(None) => {}
            Ok(Some(_)) => self.previous += 1,
            Err(DecryptionError::Key) => self.unreadable += 1,
            Err(DecryptionError::Form) => self.malformed += 1,
        }
    }

    /// Whether no card of the sample could be decrypted, and for at least one of them the key is missing.
    pub(crate) fn reads_none(&self) -> bool {
        self.unreadable > 0 && self.unreadable + self.malformed == self.cards
    }
}

pub(super) async fn marks(database: &Database) -> Result<Marks, StoreError> {
    let store = database.fetch(schema::store()).await?;
    schema::read_marks(&store, &database.fetch(schema::keys()).await?)
}

/// Refuses keys that do not match the store.
pub(super) async fn try_keys(database: &Database, cipher: &CardCipher) -> Result<Sample, StoreError> {
    // The transaction only reads; dropping it rolls it back.
    let mut transaction = database.begin().await?;
    fit(&mut transaction, cipher).await
}

/// As [`try_keys`], and records the current key before a card is encrypted with it.
pub(super) async fn admit_keys(database: &Database, cipher: &CardCipher) -> Result<(), StoreError> {
    let mut transaction = database.begin().await?;
    // Locks the store: of two workers that start at once with different keys, the second must see the first one's key.
    transaction.execute(sql("UPDATE topup_store SET store_id = store_id")).await?;
    fit(&mut transaction, cipher).await?;
    note(&mut transaction, cipher).await?;
    transaction.commit().await
}

async fn fit(open: &mut Transaction, cipher: &CardCipher) -> Result<Sample, StoreError> {
    let noted = open.fetch(schema::keys()).await?;
    let noted = noted.iter().map(|row| row.get("fingerprint")).collect::<Result<Vec<String>, _>>()?;
    let known = cipher.fingerprints();
    if let Some(unknown) = noted.iter().find(|noted| !known.contains(&noted.as_str())) {
        return Err(KeysRefused::Unknown(unknown.clone()).into());
    }
    let mut sample = Sample::default();
    if !noted.iter().any(|noted| noted == cipher.fingerprint()) {
        for row in open.fetch(some_cards()).await? {
            sample.add(cipher, &row.get::<String>("card_code")?);
        }
        if sample.reads_none() {
            return Err(KeysRefused::ReadsNone(sample.cards).into());
        }
    }
    Ok(sample)
}

/// Records the current key again, because `rekey` may have removed it as unused.
pub(super) async fn note_key(database: &Database, cipher: &CardCipher) -> Result<(), StoreError> {
    let mut transaction = database.begin().await?;
    note(&mut transaction, cipher).await?;
    transaction.commit().await
}

/// Makes the current key the only recorded one.
pub(super) async fn forget_other_keys(database: &Database, cipher: &CardCipher) -> Result<(), StoreError> {
    let mut transaction = database.begin().await?;
    let forget = sql("DELETE FROM store_keys WHERE fingerprint <> $1").bind(cipher.fingerprint());
    transaction.execute(forget).await?;
    note(&mut transaction, cipher).await?;
    transaction.commit().await
}

async fn note(open: &mut Transaction, cipher: &CardCipher) -> Result<(), StoreError> {
    let insert = sql("INSERT INTO store_keys (fingerprint) VALUES ($1) ON CONFLICT (fingerprint) DO NOTHING
         RETURNING fingerprint");
    let stored = sql("SELECT fingerprint FROM store_keys WHERE fingerprint = $1").bind(cipher.fingerprint());
    open.insert("store_keys", insert.bind(cipher.fingerprint()), stored).await.map(drop)
}
