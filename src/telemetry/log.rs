//! The log.
//!
//! The libraries below this service may log what they carry when asked to speak at length: a header with
//! a key, a body with a card. So they are heard at `INFO` and above only, whatever `RUST_LOG` says.

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, dynamic_filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::LogFormat;

fn may_be_heard(metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().starts_with("topup_");
    // apalis announces each start and stop at INFO; this service says so itself.
    let quiet = metadata.target().starts_with("apalis") && *metadata.level() > Level::WARN;
    ours || (*metadata.level() <= Level::INFO && !quiet)
}

/// Sets the log up, on standard error.
pub(crate) fn init(format: LogFormat) {
    let level = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
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
