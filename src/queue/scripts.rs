//! The Lua scripts, each loaded once. What a script does and returns stands at the head of its file.

use std::sync::LazyLock;

use redis::Script;

const PRELUDE: &str = include_str!("lua/prelude.lua");

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(crate) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(&[PRELUDE, include_str!($file)].concat()));)*
        #[cfg(test)]
        pub(crate) const SOURCES: &[&str] = &[PRELUDE, $(include_str!($file)),*];
    };
}

scripts! {
    BURIED = "lua/buried.lua";
    CLAIM = "lua/claim.lua";
    DEAD_DISCARD = "lua/dead_discard.lua";
    DEAD_REPLAY = "lua/dead_replay.lua";
    GATE_ASK = "lua/gate_ask.lua";
    GATE_CLOSE = "lua/gate_close.lua";
    GIVE_BACK = "lua/give_back.lua";
    HEARTBEAT = "lua/heartbeat.lua";
    INTAKE = "lua/intake.lua";
    LEAVE = "lua/leave.lua";
    REAP = "lua/reap.lua";
    REJECTED_REPLAY = "lua/rejected_replay.lua";
    RESTORE = "lua/restore.lua";
    SETTLE = "lua/settle.lua";
}
