//! The scripts of the budget.

use crate::redis::scripts::scripts;

/// Functions that precede every script of the budget and of the list.
pub(crate) const SHARED: &str = include_str!("lua/budget.lua");

scripts! {
    behind &[SHARED];
    BUDGET_ABLE = "lua/budget_able.lua";
    BUDGET_REPORT = "lua/budget_report.lua";
    BUDGET_ACQUIRE = "lua/budget_acquire.lua";
    BUDGET_LEARN = "lua/budget_learn.lua";
    BUDGET_OTHERS = "lua/budget_others.lua";
    BUDGET_RENEW = "lua/budget_renew.lua";
    BUDGET_STATE = "lua/budget_state.lua";
}
