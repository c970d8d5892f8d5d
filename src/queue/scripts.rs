//! The Lua scripts, each loaded once. What a script does and returns stands at the head of its file.

use std::sync::LazyLock;

use redis::Script;

const PRELUDE: &str = include_str!("lua/prelude.lua");
/// Behind the prelude where a script says so: a script that moves jobs does without.
const BUDGET: &str = include_str!("lua/budget.lua");

macro_rules! scripts {
    ($($name:ident = $file:literal $(with $shared:ident)?;)*) => {
        $(pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(&[PRELUDE, $($shared,)? include_str!($file)].concat()));)*
        #[cfg(test)]
        pub(crate) const SOURCES: &[&str] = &[PRELUDE, BUDGET, $(include_str!($file)),*];
    };
}

scripts! {
    ACQUIT = "lua/acquit.lua";
    ADOPT = "lua/adopt.lua";
    BUDGET_ABLE = "lua/budget_able.lua" with BUDGET;
    BUDGET_ANSWER = "lua/budget_answer.lua" with BUDGET;
    BUDGET_ASK = "lua/budget_ask.lua" with BUDGET;
    BUDGET_LEARN = "lua/budget_learn.lua" with BUDGET;
    BUDGET_OTHERS = "lua/budget_others.lua" with BUDGET;
    BUDGET_RENEW = "lua/budget_renew.lua" with BUDGET;
    BUDGET_STATE = "lua/budget_state.lua" with BUDGET;
    BURIED = "lua/buried.lua";
    CLAIM = "lua/claim.lua";
    CLOCK = "lua/clock.lua";
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
    JOIN = "lua/join.lua";
    LEAVE = "lua/leave.lua";
    LIST_BEGIN = "lua/list_begin.lua" with BUDGET;
    LIST_END = "lua/list_end.lua" with BUDGET;
    LIST_SEEN = "lua/list_seen.lua" with BUDGET;
    PUT_RIGHT = "lua/put_right.lua";
    REAP = "lua/reap.lua";
    REJECTED_REPLAY = "lua/rejected_replay.lua";
    REJECTED_TRIM = "lua/rejected_trim.lua";
    RESEND = "lua/resend.lua";
    RESTORE = "lua/restore.lua";
    SETTLE = "lua/settle.lua";
}
