//! How long orders are kept.

use std::time::Duration;

use clap::Args;

use super::{SettingsError, unusable};

/// A hundred years: a time that far back can still be written.
const MAX_DAYS: u32 = 36_500;

/// How long orders are kept.
#[derive(Debug, Clone, Args)]
pub struct RetentionSettings {
    /// Days after which a final order is deleted with all that belongs to it; kept for ever where it is not set
    #[arg(long, env = "RETENTION_DAYS")]
    pub retention_days: Option<u32>,
}

impl RetentionSettings {
    /// How long a final order is kept, if not for ever.
    ///
    /// # Errors
    /// [`SettingsError`] where it is too short for an order to be notified and looked up.
    pub fn keep(&self) -> Result<Option<Duration>, SettingsError> {
        match self.retention_days {
            None => Ok(None),
            Some(days @ 1..=MAX_DAYS) => Ok(Some(Duration::from_hours(24 * u64::from(days)))),
            Some(_) => Err(unusable("RETENTION_DAYS", "it must be from 1 to 36,500 days")),
        }
    }
}
