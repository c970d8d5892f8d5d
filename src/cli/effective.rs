//! Lists the settings that a command uses, each with its value and its source, such as the environment. `doctor` prints
//! the list. A secret is shown as `set`. Of an address that may hold a secret, only scheme, host and port are shown.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};
use serde::Serialize;
use url::Url;

use super::environment::{Stands, Variables};
use super::one_line;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Setting {
    pub(super) name: String,
    /// Masked by [`shown`] if the value may hold a secret.
    pub(super) value: String,
    pub(super) from: Source,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Source {
    Default,
    Environment,
    File,
    Flag,
}

impl Source {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Flag => "flag",
        }
    }
}

/// Returns the settings of the subcommand that the command line names, sorted by name.
pub(super) fn settings(command: &Command, matches: &ArgMatches, variables: &Variables) -> Vec<Setting> {
    let Some((name, matches)) = matches.subcommand() else { return Vec::new() };
    let own = command.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
    let of_all_commands = command.get_arguments().filter(|arg| arg.is_global_set());
    let mut settings: Vec<Setting> =
        own.chain(of_all_commands).filter_map(|arg| setting(arg, matches, variables)).collect();
    settings.sort_by(|one, other| one.name.cmp(&other.name));
    settings
}

fn setting(arg: &Arg, matches: &ArgMatches, variables: &Variables) -> Option<Setting> {
    let name = arg.get_env()?.to_str()?;
    let id = arg.get_id().as_str();
    let values = matches.try_get_raw(id).ok()??;
    let value = values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(" ");
    let from = match (matches.value_source(id)?, variables.get(name)) {
        (ValueSource::CommandLine, _) => Source::Flag,
        (_, Some((_, Stands::InEnvironment))) => Source::Environment,
        (_, Some((_, Stands::InFile))) => Source::File,
        (_, None) => Source::Default,
    };
    let value = shown(name, arg.is_hide_env_values_set(), &value);
    Some(Setting { name: name.to_owned(), value, from })
}

fn shown(name: &str, is_secret: bool, value: &str) -> String {
    if !is_secret && !value.contains('@') {
        return one_line(value);
    }
    let address = Url::parse(value).ok().filter(|_| name.ends_with("_URL"));
    match address {
        // Only the query of an SQLite address is hidden, because the path of a file holds no secret.
        Some(url) if url.scheme() == "sqlite" => one_line(value.split('?').next().unwrap_or_default()),
        Some(url) if url.has_host() => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}/…", url.scheme(), url.host_str().unwrap_or_default())
        }
        _ => "set".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        for (name, is_secret, value, expected) in [
            ("CONCURRENCY", false, "64", "64"),
            ("EMAIL_FROM", false, "shop@example.dz", "set"),
            ("ENCRYPTION_KEY", true, "00ff", "set"),
            ("ONECLICKDZ_API_KEY", true, "scheme://key", "set"),
            ("REDIS_URL", true, "redis://user:secret@db:6380/1", "redis://db:6380/…"),
            ("REDIS_URL", true, "not an address", "set"),
            ("WEBHOOK_URL", true, "https://shop.example.dz/hook/token?secret", "https://shop.example.dz/…"),
            ("DATABASE_URL", true, "postgres://a:secret@db/orders", "postgres://db/…"),
            ("DATABASE_URL", true, "sqlite:///data/orders.db?mode=rwc", "sqlite:///data/orders.db"),
            ("ONECLICKDZ_API_URL", false, "https://u:secret@api.example", "https://api.example/…"),
        ] {
            assert_eq!(shown(name, is_secret, value), expected, "{name}");
        }
    }
}
