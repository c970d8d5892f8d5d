//! Sets up the log. At debug and trace level libraries may log the data they handle, such as a header with a key or a
//! body with a card. So events of libraries appear only at `INFO` and above, whatever `RUST_LOG` contains.

use std::io::Write;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, dynamic_filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

fn may_be_heard(metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().starts_with("topup_");
    // At INFO apalis logs its starts and stops. These lines are hidden, because this service logs its own.
    let quiet = metadata.target().starts_with("apalis") && *metadata.level() > Level::WARN;
    // A trigger of the database may put a phone number into a notice.
    let notice = metadata.target() == "sqlx::postgres::notice";
    ours || (*metadata.level() <= Level::INFO && !quiet && !notice)
}

/// Sets up the log on standard error, and reports mistakes in `RUST_LOG` there.
pub(crate) fn init(format: LogFormat, directives: &str) {
    for mistake in mistakes(directives) {
        // Written to standard error and not to the log, because the mistake may silence the log.
        let _ = writeln!(std::io::stderr(), "RUST_LOG: {mistake}");
    }
    let level = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse_lossy(directives);
    // A dynamic filter decides anew at every event. sqlx asks whether a statement would be logged, then logs nothing.
    // Its answer "no" stays in the thread, and would drop the next event there if the filter did not decide anew.
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

/// Likely mistakes in `RUST_LOG`. For example, a misspelt level is taken for the name of the only module to log.
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
                "`{directive}` is not the name of a module; write it with _, as `{}`",
                directive.replace('-', "_")
            ));
        } else if level.is_empty() && !is_level(target) && !is_ours(target) && !target.contains("::") {
            mistakes.push(format!(
                "`{directive}` is none of off, error, warn, info, debug and trace, and is taken for the name of a module"
            ));
        } else if !level.is_empty() && !is_level(level) {
            mistakes.push(format!(
                "in `{directive}`, the word after = is none of off, error, warn, info, debug and trace"
            ));
        }
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::mistakes;

    #[test]
    fn mistakes_that_would_silence_the_log_are_reported() {
        for right in
            ["", "info", "WARN", "off", "topup_worker=debug,warn", "topup_worker::queue", "sqlx=info", "5"]
        {
            assert_eq!(mistakes(right), Vec::<String>::new(), "{right}");
        }
        for (wrong, words) in [
            ("warning", "`warning` is none of off, error"),
            ("info,topup-worker=debug", "write it with _, as `topup_worker=debug`"),
            ("topup-worker", "write it with _, as `topup_worker`"),
            ("topup_worker=verbose", "the word after = is none of off"),
            ("all", "taken for the name of a module"),
        ] {
            let found = mistakes(wrong);
            assert!(found.len() == 1 && found[0].contains(words), "{wrong}: {found:?}");
        }
    }
}
