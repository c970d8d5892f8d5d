//! Builds and loads Lua scripts. The comment at the head of a script says what it does, takes and returns.

use redis::Script;

/// Prepended to every script.
pub(crate) const PRELUDE: &str = include_str!("lua/prelude.lua");

/// Builds a script from the prelude, shared sources and its own source.
pub(crate) fn script(shared: &[&str], own: &str) -> Script {
    Script::new(&[PRELUDE, &shared.concat(), own].concat())
}

/// Declares the scripts of a module by name and file, each built once and preceded by the shared sources.
macro_rules! scripts {
    (behind $shared:expr; $($name:ident = $file:literal;)*) => {
        $(pub(crate) static $name: std::sync::LazyLock<redis::Script> =
            std::sync::LazyLock::new(|| $crate::redis::scripts::script($shared, include_str!($file)));)*
        #[cfg(test)]
        pub(crate) const SOURCES: &[&str] = &[$(include_str!($file)),*];
    };
}

pub(crate) use scripts;
