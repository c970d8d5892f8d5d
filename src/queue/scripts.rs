//! The scripts that move jobs.

use crate::redis::scripts::scripts;

/// Prepended to every script that moves jobs.
pub(crate) const LAYOUT: &str = include_str!("lua/layout.lua");

scripts! {
    behind &[LAYOUT];
    ACQUIT = "lua/acquit.lua";
    DEAD_REASONS = "lua/dead_reasons.lua";
    CLAIM = "lua/claim.lua";
    DEAD_DISCARD = "lua/dead_discard.lua";
    DEAD_MARK = "lua/dead_mark.lua";
    DEAD_REPLAY = "lua/dead_replay.lua";
    DEAD_RESTORE = "lua/dead_restore.lua";
    GIVE_BACK = "lua/give_back.lua";
    HASTEN = "lua/hasten.lua";
    HEARTBEAT = "lua/heartbeat.lua";
    IDENTIFY = "lua/identify.lua";
    INBOX_READ = "lua/inbox_read.lua";
    INTAKE = "lua/intake.lua";
    LEAVE = "lua/leave.lua";
    PUT_RIGHT = "lua/put_right.lua";
    REAP = "lua/reap.lua";
    REJECTED_REPLAY = "lua/rejected_replay.lua";
    REJECTED_TRIM = "lua/rejected_trim.lua";
    RESEND = "lua/resend.lua";
    RESTORE = "lua/restore.lua";
    SETTLE = "lua/settle.lua";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_use_the_key_names_of_apalis_redis() {
        let queue = "{topup}:poll-topup";
        let config = apalis_redis::Config::default().queue(queue);
        let scripts = [&[LAYOUT], SOURCES].concat().concat();
        for key in [
            config.active_jobs_list(),
            config.scheduled_jobs_set(),
            config.job_data_hash(),
            config.dead_jobs_set(),
            config.workers_set(),
            format!("{}:", config.job_meta_hash()),
            format!("{}:", config.inflight_jobs_set()),
        ] {
            let suffix = key.strip_prefix(queue).unwrap();
            assert!(scripts.contains(&format!("'{suffix}'")), "no script uses {suffix}");
        }
    }
}
