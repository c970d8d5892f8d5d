//! Measures how many orders end per request to the provider, and how soon their customers are notified. A tracker is a
//! program that tracks orders: the polling loop of the provider's guide, or this service, which checks each order or
//! reads the provider's list of orders. The simulated provider has the limits of the real one and gives each tracker
//! the same orders at the same times, on the same scaled clock. Here, an order ends when it is FULFILLED, REFUNDED or
//! QUEUED, because the guide's loop ends at these statuses.

mod backlog;
mod guide;
mod load;
mod service;

use clap::{Args, ValueEnum};

use self::load::{Load, Tracked};
use super::bench_redis::BenchRedis;
use super::report::{Report, figure_name};
use crate::simulator::ListCard;

/// Requests per minute that the provider allows one API key.
const RATE_LIMIT: u32 = 120;

#[derive(Debug, Clone, Args)]
pub(super) struct BudgetSettings {
    /// Orders that arrive in a minute, for `budget`; several rates separated by commas
    #[arg(long, value_delimiter = ',', default_value = "90,1000", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    arrivals: Vec<u32>,

    /// Minutes during which orders arrive
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    minutes: u32,

    /// Minutes to wait, after the last arrival, for the end of the orders
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=600))]
    settle_minutes: u32,

    /// Factor by which these minutes pass faster than real time
    #[arg(long, default_value_t = 10.0, value_parser = scale)]
    time_scale: f64,

    /// QUEUED orders whose recheck is due when the measurement starts
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    rechecks: u32,

    /// Create the orders of --rechecks only in the database, as if Redis had lost its data
    #[arg(long)]
    rechecks_lost: bool,

    /// Trackers (programs that track orders) to measure, separated by commas; all by default
    #[arg(long, value_enum, value_delimiter = ',')]
    trackers: Vec<Tracker>,
}

/// A program that tracks the orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Tracker {
    /// The unchanged loop `pollTopupAdaptive` of the provider's guide, which ends at any answer that is not an order.
    Guide,
    /// The guide's loop, corrected to continue after an answer that is not an order.
    PatientGuide,
    /// Two workers that check each order separately.
    CheckId,
    /// Two workers that read the list as documented. The list omits the date of a card, so each card needs a check.
    List,
    /// Like `list`, but cards are delivered without the date while too many wait to be checked soon.
    ListFast,
    /// Two workers that read a list with all fields of a card.
    ListWithCards,
}

/// Measures each selected tracker at each rate of arriving orders.
pub(super) async fn budget(
    settings: &BudgetSettings,
    bench: &mut BenchRedis,
    report: &mut Report,
) -> anyhow::Result<()> {
    for &arrivals in &settings.arrivals {
        let mut guide = None;
        for tracker in Tracker::value_variants() {
            if !settings.trackers.is_empty() && !settings.trackers.contains(tracker) {
                continue;
            }
            bench.clear().await?;
            let list_card = match tracker {
                Tracker::ListWithCards => ListCard::Complete,
                _ => ListCard::Documented,
            };
            let load = Load { arrivals, settings, list_card };
            let tracked = match tracker {
                Tracker::Guide => guide::track(&load, false).await?,
                Tracker::PatientGuide => guide::track(&load, true).await?,
                Tracker::CheckId => service::track(&load, bench, "off", "complete").await?,
                Tracker::ListFast => service::track(&load, bench, "auto", "fast").await?,
                Tracker::List | Tracker::ListWithCards => {
                    service::track(&load, bench, "auto", "complete").await?
                }
            };
            let name = format!("budget_{arrivals}_per_minute_{}", figure_name(tracker));
            note(report, &name, &tracked);
            if settings.rechecks > 0 {
                let (answered, a_minute) = tracked.rechecks_answered;
                report.add(format!("{name}_rechecks_answered"), f64::from(answered));
                report.add(format!("{name}_rechecks_answered_per_minute"), a_minute);
            }
            if *tracker == Tracker::PatientGuide {
                guide = Some(tracked.orders_per_request());
            } else if let Some(guide) = guide {
                report.add(format!("{name}_over_patient_guide"), tracked.orders_per_request() / guide);
            }
        }
    }
    Ok(())
}

fn note(report: &mut Report, name: &str, tracked: &Tracked) {
    let figures = [
        ("orders", f64::from(tracked.orders)),
        ("orders_not_ended", f64::from(tracked.orders - tracked.ended)),
        ("requests", f64::from(tracked.requests)),
        ("requests_refused", f64::from(tracked.refused)),
        ("busiest_minute_requests", f64::from(tracked.busiest_minute)),
        ("orders_per_request", tracked.orders_per_request()),
        ("notified_after_p50_seconds", tracked.notified_after(0.5)),
        ("notified_after_p95_seconds", tracked.notified_after(0.95)),
        ("notified_after_max_seconds", tracked.notified_after(1.0)),
    ];
    for (figure, value) in figures {
        report.add(format!("{name}_{figure}"), value);
    }
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (1.0..=100.0).contains(&scale) => Ok(scale),
        _ => Err("must be a number from 1 to 100".to_owned()),
    }
}
