//! The section of rejected messages: how many are stored, and how much memory they take.

use clap::Args;

use super::{SettingsError, unusable};
use crate::queue::RejectedCap;

/// Limits on the stored rejected messages.
#[derive(Debug, Clone, Args)]
pub struct InboxSettings {
    /// Most rejected messages that are kept; beyond, the oldest are dropped
    #[arg(long, env = "REJECTED_MESSAGES", default_value_t = 10_000)]
    pub rejected_messages: u64,

    /// Most memory of Redis, in MiB, that rejected messages take; beyond, the oldest are dropped
    #[arg(long, env = "REJECTED_MEGABYTES", default_value_t = 64)]
    pub rejected_megabytes: u64,
}

impl InboxSettings {
    pub(super) fn rejected_cap(&self) -> Result<RejectedCap, SettingsError> {
        if !(1..=10_000_000).contains(&self.rejected_messages) {
            return Err(unusable("REJECTED_MESSAGES", "it must be from 1 to 10,000,000"));
        }
        if !(1..=1_000_000).contains(&self.rejected_megabytes) {
            return Err(unusable("REJECTED_MEGABYTES", "it must be from 1 to 1,000,000"));
        }
        Ok(RejectedCap { messages: self.rejected_messages, bytes: self.rejected_megabytes << 20 })
    }
}
