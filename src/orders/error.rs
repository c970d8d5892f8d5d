//! Why the store did not do it, in words that say what to do. No value of an order is in them.

use super::DecryptionError;

/// The keys of a worker do not fit the store: it must not encrypt cards with them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysRefused {
    /// None of the cards that were tried can be decrypted.
    #[error(
        "none of the {0} stored cards that were tried can be decrypted: set the key of this database or, if you are \
         changing it, add that key to ENCRYPTION_KEYS_PREVIOUS. Where it is lost for good, `topup-worker rekey \
         --forget-lost-keys` lets workers start without it"
    )]
    ReadsNone(usize),
    /// Workers encrypt, or have encrypted, cards with a key that is not among them.
    #[error(
        "cards of this database may be encrypted with another key (fingerprint {0}): set that one or, if you are \
         changing it, add it to ENCRYPTION_KEYS_PREVIOUS. Where no card needs it, `topup-worker rekey` finds that out; \
         where it is lost for good, `topup-worker rekey --forget-lost-keys` lets workers start without it"
    )]
    Unknown(String),
}

/// The store failed. The words of the database stand in `source`; no value of an order is in them.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address means no database.
    #[error("the address is neither sqlite:// nor postgres://, or cannot be read")]
    Address,
    /// The database did not do it.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The tables could not be brought up to date.
    #[error("the tables of the database could not be brought up to date")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The database took longer than one call may take. What it was asked for may be done nevertheless.
    #[error("the database did not answer within {} s", .0.as_secs_f64())]
    TooSlow(std::time::Duration),
    /// There is no database here, and it was not to be made.
    #[error(
        "there is no database {0}: set DATABASE_URL as the workers have it (a relative path counts from the folder in \
         which the command runs), or make a new database with `topup-worker migrate`"
    )]
    Missing(String),
    /// The file of the database is not at its path any more.
    #[error(
        "the file of the database was removed or moved while it was open; nothing is stored until it is back at its path"
    )]
    Removed,
    /// Another file has taken its place.
    #[error("the file of the database was replaced by another one while it was open")]
    Replaced,
    /// The tables are not there, or are older than this program, and were not to be changed.
    #[error(
        "the tables of the database are missing or older than this program: run `topup-worker migrate` first, or set \
         DATABASE_URL as the workers have it"
    )]
    NotMigrated,
    /// A newer program has changed the tables.
    #[error(
        "a newer topup-worker has changed the tables of the database, and this version must not use them any more: run \
         the newer version"
    )]
    TooNew,
    /// The tables are of another program.
    #[error(
        "the tables of the database are not those of topup-worker, or were left half migrated: set DATABASE_URL to a \
         database of its own, or bring the last backup back"
    )]
    Foreign,
    /// A card is to be read or stored without a key.
    #[error("ENCRYPTION_KEY is not set, and a card cannot be read or stored without it")]
    NoKey,
    /// The keys do not fit the stored cards.
    #[error(transparent)]
    Keys(#[from] KeysRefused),
    /// A stored card cannot be read.
    #[error(transparent)]
    Decryption(#[from] DecryptionError),
    /// A stored row is not what this service writes.
    #[error("a stored {0} cannot be read")]
    Row(&'static str),
}

impl StoreError {
    /// Whether one row is at fault, so that others can still be read.
    #[must_use]
    pub fn is_of_one_row(&self) -> bool {
        matches!(
            self,
            Self::Row(_)
                | Self::Decryption(_)
                | Self::Database(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
        )
    }
}
