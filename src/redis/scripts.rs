//! How Lua scripts are made and loaded. What a script does and returns stands at the head of its file.

use redis::Script;

/// Stands before every script.
pub(crate) const PRELUDE: &str = include_str!("lua/prelude.lua");

/// A script, behind what it shares with others.
pub(crate) fn script(shared: &[&str], own: &str) -> Script {
    Script::new(&[PRELUDE, &shared.concat(), own].concat())
}

/// Declares the scripts of a module, each loaded once: what stands before them, their names, and their files.
macro_rules! scripts {
    (behind $shared:expr; $($name:ident = $file:literal;)*) => {
        $(pub(crate) static $name: std::sync::LazyLock<redis::Script> =
            std::sync::LazyLock::new(|| $crate::redis::scripts::script($shared, include_str!($file)));)*
        #[cfg(test)]
        pub(crate) const SOURCES: &[&str] = &[$(include_str!($file)),*];
    };
}

pub(crate) use scripts;
