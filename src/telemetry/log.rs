//! The log.
//!
//! The libraries below this service may log what they carry when asked to speak at length: a header with
//! a key, a body with a card. So they are heard at `INFO` and above only, whatever `RUST_LOG` says.

use std::io::Write;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, dynamic_filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

fn may_be_heard(metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().starts_with("topup_");
    // apalis announces each start and stop at INFO; this service says so itself.
    let quiet = metadata.target().starts_with("apalis") && *metadata.level() > Level::WARN;
    ours || (*metadata.level() <= Level::INFO && !quiet)
}

/// Sets the log up, on standard error. Mistakes in `RUST_LOG` are reported there.
pub(crate) fn init(format: LogFormat, directives: &str) {
    for mistake in mistakes(directives) {
        // Not by the log, which may show nothing for that mistake.
        let _ = writeln!(std::io::stderr(), "RUST_LOG: {mistake}");
    }
    let level = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy(directives);
    // Asked at every event: sqlx asks whether it may log a statement and then logs nothing, and with a filter whose verdict
    // is kept for each place in the code, the next event of that thread would be dropped for it.
    let heard = level.and(dynamic_filter_fn(|metadata, _| may_be_heard(metadata)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Json => lines.json().with_filter(heard).boxed(),
        LogFormat::Pretty => {
            lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).with_filter(heard).boxed()
        }
    };
    tracing_subscriber::registry().with(lines).init();
}

/// What is likely meant otherwise in these directives: a word that is no level is the name of a module, and shows nothing
/// but what that module says.
fn mistakes(directives: &str) -> Vec<String> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_ours = |target: &str| target.starts_with("topup_");
    let mut mistakes = Vec::new();
    for directive in directives.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        if directive.contains('[') {
            continue;
        }
        let (target, level) = directive.split_once('=').unwrap_or((directive, ""));
        if target.contains('-') && is_ours(&target.replace('-', "_")) {
            mistakes.push(format!(
                "`{directive}` names no module; write it with _, as `{}`",
                directive.replace('-', "_")
            ));
        } else if level.is_empty() && !is_level(target) && !is_ours(target) && !target.contains("::") {
            mistakes.push(format!(
                "`{directive}` is none of off, error, warn, info, debug and trace, and is taken for the name of a module"
            ));
        } else if !level.is_empty() && !is_level(level) {
            mistakes.push(format!(
                "of `{directive}`, what follows = is none of off, error, warn, info, debug and trace"
            ));
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::mistakes;

    #[test]
    fn a_filter_that_shows_nothing_by_mistake_is_told() {
        for right in
            ["", "info", "WARN", "off", "topup_worker=debug,warn", "topup_worker::queue", "sqlx=info", "5"]
        {
            assert_eq!(mistakes(right), Vec::<String>::new(), "{right}");
        }
        for (wrong, words) in [
            ("warning", "`warning` is none of off, error"),
            ("info,topup-worker=debug", "write it with _, as `topup_worker=debug`"),
            ("topup-worker", "write it with _, as `topup_worker`"),
            ("topup_worker=verbose", "what follows = is none of off"),
            ("all", "taken for the name of a module"),
        ] {
            let told = mistakes(wrong);
            assert!(told.len() == 1 && told[0].contains(words), "{wrong}: {told:?}");
        }
    }
}
