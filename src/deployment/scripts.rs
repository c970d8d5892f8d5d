//! The Lua scripts of the deployment.

use crate::redis::scripts::scripts;

scripts! {
    behind &[];
    ADOPT = "lua/adopt.lua";
    CLOCK = "lua/clock.lua";
    JOIN = "lua/join.lua";
}
