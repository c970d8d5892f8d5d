//! The Lua scripts of list polling.

use crate::queue::LAYOUT;
use crate::rate_limit::SHARED;
use crate::redis::scripts::scripts;

scripts! {
    behind &[LAYOUT, SHARED];
    LIST_BEGIN = "lua/list_begin.lua";
    LIST_END = "lua/list_end.lua";
    LIST_SEEN = "lua/list_seen.lua";
}
