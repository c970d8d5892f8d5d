//! The output of the demo: one line per event, plus progress bars on a terminal, or else a line of numbers every 3 s.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::ledger::Counts;
use crate::cli::say;

/// Statuses, in the sequence in which an order passes them, each with the colour of its progress bar.
const STATUSES: [(&str, &str); 5] = [
    ("HANDLING", "cyan"),
    ("SCHEDULED", "yellow"),
    ("DELAYED", "magenta"),
    ("FULFILLED", "green"),
    ("REFUNDED", "blue"),
];
/// Interval between lines of numbers if standard output is not a terminal.
const PACE: Duration = Duration::from_secs(3);

pub(super) struct Screen {
    orders: u32,
    bars: Option<Bars>,
    last_numbers: Mutex<Option<Instant>>,
}

struct Bars {
    all: MultiProgress,
    statuses: Vec<ProgressBar>,
    notified: ProgressBar,
    clock: ProgressBar,
}

impl Screen {
    pub(super) fn new(orders: u32) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let bars = (!all.is_hidden()).then(|| Bars::new(all, orders));
        Self { orders, bars, last_numbers: Mutex::new(None) }
    }

    pub(super) fn tell(&self, line: &str) -> anyhow::Result<()> {
        match &self.bars {
            Some(bars) => Ok(bars.all.println(line)?),
            None => say(line),
        }
    }

    pub(super) fn show(&self, clock: &str, counts: &Counts, notified: usize) -> anyhow::Result<()> {
        if let Some(bars) = &self.bars {
            bars.show(clock, counts, notified);
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
        say(format_args!("{clock}   {numbers} of {orders}; notified {notified} of {}", counts.events))
    }

    pub(super) fn close(&self) {
        if let Some(bars) = &self.bars {
            // Clearing fails if the terminal is closed. No bar is visible then, so the error is ignored.
            drop(bars.all.clear());
        }
    }
}

impl Bars {
    fn new(all: MultiProgress, orders: u32) -> Self {
        let bar = |name: &'static str, colour: &str, length: u64| {
            let style = format!("  {{prefix:<14}} {{bar:36.{colour}}} {{pos:>3}} of {{len}}");
            let bar = ProgressBar::new(length).with_prefix(name);
            // The template is a constant of this file, so the fallback is never used.
            let style = ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar());
            all.add(bar.with_style(style.progress_chars("━╸ ")))
        };
        let statuses = STATUSES.iter().map(|(status, colour)| bar(status, colour, orders.into())).collect();
        let notified = bar("notifications", "white", 0);
        let clock = ProgressStyle::with_template("  {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let clock = ProgressBar::new(0).with_style(clock);
        let clock = all.add(clock);
        Self { all, statuses, notified, clock }
    }

    fn show(&self, clock: &str, counts: &Counts, notified: usize) {
        for ((status, _), bar) in STATUSES.iter().zip(&self.statuses) {
            bar.set_position(counts.of(status));
        }
        self.notified.set_length(counts.events);
        self.notified.set_position(notified.try_into().unwrap_or(u64::MAX));
        self.clock.set_message(format!("{clock}   (an hour passes in a second; Ctrl-C ends the demo)"));
    }
}
