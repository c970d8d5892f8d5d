//! The provider's budget, spent: how many orders one request follows to their end, and how late customers hear.
//!
//! The same orders come at the same times to the simulated provider, which allows what the real one allows, and
//! each follower in turn takes care of them: the loop of the provider's guide, and this service as it is run,
//! asking for each order or reading a list. A scaled clock is shared by provider, budget and workers.
//!
//! An order has come to its end here when it is FULFILLED, REFUNDED or QUEUED, which is where the guide's loop
//! ends as well.

mod backlog;
mod guide;
mod load;
mod service;

use clap::{Args, ValueEnum};

use self::load::{Load, Tracked};
use super::ground::Ground;
use super::report::Report;
use crate::simulator::ListCard;

/// What the provider allows a key in a minute.
const RATE_LIMIT: u32 = 120;

#[derive(Debug, Clone, Args)]
pub(super) struct BudgetSettings {
    /// Orders that arrive in a minute, for `budget`; several, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "90,1000", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    arrivals: Vec<u32>,

    /// Minutes for which they arrive
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    minutes: u32,

    /// Minutes after the last arrival in which orders may come to their end
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=600))]
    settle_minutes: u32,

    /// How many times as fast these minutes pass
    #[arg(long, default_value_t = 10.0, value_parser = scale)]
    time_scale: f64,

    /// Rechecks that are due when it begins
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    rechecks: u32,

    /// These rechecks are in the database alone: Redis has lost its data
    #[arg(long)]
    rechecks_lost: bool,

    /// Only these followers; all where it is not given
    #[arg(long, value_enum, value_delimiter = ',')]
    followers: Vec<Follower>,
}

/// Who follows the orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Follower {
    /// `pollTopupAdaptive` of the guide, for each order. An answer that is no order ends it, as it is written.
    Guide,
    /// The same, mended so far that it polls on after an answer that is no order.
    PatientGuide,
    /// Two workers that ask for each order.
    CheckId,
    /// Two workers, and the list as it is documented, without the date of a card: each card is asked for.
    List,
    /// The same, where cards are delivered without the date while more wait than can be asked for soon.
    ListFast,
    /// Two workers, and a list that shows all fields of a card.
    ListWithCards,
}

/// Measures every follower at every rate.
pub(super) async fn budget(
    settings: &BudgetSettings,
    ground: &mut Ground,
    report: &mut Report,
) -> anyhow::Result<()> {
    for &arrivals in &settings.arrivals {
        let mut guide = None;
        for follower in Follower::value_variants() {
            if !settings.followers.is_empty() && !settings.followers.contains(follower) {
                continue;
            }
            ground.clear().await?;
            let list_card = match follower {
                Follower::ListWithCards => ListCard::Complete,
                _ => ListCard::Documented,
            };
            let load = Load { arrivals, settings, list_card };
            let tracked = match follower {
                Follower::Guide => guide::follow(&load, false).await?,
                Follower::PatientGuide => guide::follow(&load, true).await?,
                Follower::CheckId => service::follow(&load, ground, "off", "complete").await?,
                Follower::ListFast => service::follow(&load, ground, "auto", "fast").await?,
                Follower::List | Follower::ListWithCards => {
                    service::follow(&load, ground, "auto", "complete").await?
                }
            };
            // Invariant: no follower is skipped as a value.
            let follower_name = follower.to_possible_value().expect("a name").get_name().replace('-', "_");
            let name = format!("budget_{arrivals}_per_minute_{follower_name}");
            note(report, &name, &tracked);
            if settings.rechecks > 0 {
                let (answered, a_minute) = tracked.rechecks_answered;
                report.add(format!("{name}_rechecks_answered"), f64::from(answered));
                report.add(format!("{name}_rechecks_answered_per_minute"), a_minute);
            }
            if *follower == Follower::PatientGuide {
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
        ("told_after_p50_seconds", tracked.told_after(0.5)),
        ("told_after_p95_seconds", tracked.told_after(0.95)),
        ("told_after_max_seconds", tracked.told_after(1.0)),
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
