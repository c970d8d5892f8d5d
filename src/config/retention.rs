//! The section of retention: the days after which final orders are deleted.

use std::time::Duration;

use clap::Args;

use super::{SettingsError, unusable};

/// Longest retention, about a hundred years. A date that far back can still be represented.
const MAX_DAYS: u32 = 36_500;

/// Settings of the retention of orders.
#[derive(Debug, Clone, Args)]
pub struct RetentionSettings {
    /// Days after which a final order is deleted with all that belongs to it; kept for ever if it is not set
    #[arg(long, env = "RETENTION_DAYS")]
    pub retention_days: Option<u32>,
}

impl RetentionSettings {
    /// Time that a final order is kept; `None` keeps it for ever.
    ///
    /// # Errors
    /// [`SettingsError`] if it is not from 1 to 36,500 days.
    pub fn keep(&self) -> Result<Option<Duration>, SettingsError> {
        match self.retention_days {
            None => Ok(None),
            Some(days @ 1..=MAX_DAYS) => Ok(Some(Duration::from_hours(24 * u64::from(days)))),
            Some(_) => Err(unusable("RETENTION_DAYS", "it must be from 1 to 36,500 days")),
        }
    }
}
