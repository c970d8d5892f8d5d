//! What the person sees while the demo runs: on a terminal bars that move, with the story above them;
//! anywhere else the story and now and then a line of numbers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::ledger::Counts;
use crate::cli::say;

/// Statuses in the order in which orders pass them, and the colours of their bars.
const STATUSES: [(&str, &str); 5] = [
    ("HANDLING", "cyan"),
    ("SCHEDULED", "yellow"),
    ("DELAYED", "magenta"),
    ("FULFILLED", "green"),
    ("REFUNDED", "blue"),
];
/// Pace of the lines of numbers where there is no terminal.
const PACE: Duration = Duration::from_secs(3);

/// The screen.
pub(super) struct Screen {
    orders: u32,
    bars: Option<Bars>,
    last_numbers: Mutex<Option<Instant>>,
}

struct Bars {
    all: MultiProgress,
    statuses: Vec<ProgressBar>,
    told: ProgressBar,
    clock: ProgressBar,
}

impl Screen {
    pub(super) fn new(orders: u32) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let bars = (!all.is_hidden()).then(|| Bars::new(all, orders));
        Self { orders, bars, last_numbers: Mutex::new(None) }
    }

    /// A line of the story.
    pub(super) fn tell(&self, line: &str) -> anyhow::Result<()> {
        match &self.bars {
            Some(bars) => Ok(bars.all.println(line)?),
            None => say(line),
        }
    }

    /// The numbers at this moment.
    pub(super) fn show(&self, clock: &str, counts: &Counts, told: usize) -> anyhow::Result<()> {
        if let Some(bars) = &self.bars {
            bars.show(clock, counts, told);
            return Ok(());
        }
        let mut last = self.last_numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < PACE) {
            return Ok(());
        }
        *last = Some(Instant::now());
        let numbers: Vec<String> = STATUSES
            .iter()
            .map(|(status, _)| format!("{} {}", status.to_lowercase(), counts.of(status)))
            .collect();
        let (numbers, orders) = (numbers.join(", "), self.orders);
        say(format_args!("{clock}   {numbers} of {orders}; told {told} of {}", counts.events))
    }

    /// Takes the bars away.
    pub(super) fn close(&self) {
        if let Some(bars) = &self.bars {
            // Where the terminal is gone there is nothing to take away.
            drop(bars.all.clear());
        }
    }
}

impl Bars {
    fn new(all: MultiProgress, orders: u32) -> Self {
        let bar = |name: &'static str, colour: &str, length: u64| {
            let style = format!("  {{prefix:<14}} {{bar:36.{colour}}} {{pos:>3}} of {{len}}");
            let bar = ProgressBar::new(length).with_prefix(name);
            // The template is one of ours; if it were wrong, the plain bar would do.
            let style = ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar());
            all.add(bar.with_style(style.progress_chars("━╸ ")))
        };
        let statuses = STATUSES.iter().map(|(status, colour)| bar(status, colour, orders.into())).collect();
        let told = bar("notifications", "white", 0);
        let clock = ProgressStyle::with_template("  {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let clock = ProgressBar::new(0).with_style(clock);
        let clock = all.add(clock);
        Self { all, statuses, told, clock }
    }

    fn show(&self, clock: &str, counts: &Counts, told: usize) {
        for ((status, _), bar) in STATUSES.iter().zip(&self.statuses) {
            bar.set_position(counts.of(status));
        }
        self.told.set_length(counts.events);
        self.told.set_position(told.try_into().unwrap_or(u64::MAX));
        self.clock.set_message(format!("{clock}   (an hour passes in a second; Ctrl-C ends the demo)"));
    }
}
