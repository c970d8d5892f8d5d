//! The orders that arrive: the same lives at the same times for every follower, and what became of them.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::super::report::percentile;
use super::{BudgetSettings, RATE_LIMIT};
use crate::simulator::{ListCard, Mix, Simulator, SimulatorSettings, serve};

/// Final after 3 to 45 seconds, or QUEUED.
const MIX: Mix = Mix { fulfilled: 80, refunded: 10, queued: 10, slow: 0 };
const SEED: u64 = 1;

/// What one follower is given.
pub(super) struct Load<'a> {
    pub(super) arrivals: u32,
    pub(super) settings: &'a BudgetSettings,
    /// What the list shows of a card.
    pub(super) list_card: ListCard,
}

/// What came of it.
pub(super) struct Tracked {
    pub(super) orders: u32,
    pub(super) ended: u32,
    pub(super) requests: u32,
    /// Of these, checks that the provider refused because there had been too many.
    pub(super) refused: u32,
    pub(super) busiest_minute: u32,
    /// Milliseconds from the end of an order at the provider until its customer was notified, sorted. An order
    /// without a notification counts with the time until the measurement ended.
    told_after_ms: Vec<i64>,
    /// Rechecks that were due at the beginning and that were answered for: in all, and in a minute.
    pub(super) rechecks_answered: (u32, f64),
}

impl Tracked {
    pub(super) fn orders_per_request(&self) -> f64 {
        f64::from(self.ended) / f64::from(self.requests)
    }

    /// The time within which this share of the customers was notified, in seconds.
    pub(super) fn told_after(&self, share: f64) -> f64 {
        percentile(&self.told_after_ms, share) / 1000.0
    }
}

/// The provider of one load, and a note of who was notified.
pub(super) struct Provider {
    pub(super) url: String,
    pub(super) told: Told,
    _serving: AbortOnDropHandle<std::io::Result<()>>,
}

/// Which orders' customers were told, and how long after their end. Clones share the note.
#[derive(Clone)]
pub(super) struct Told {
    simulator: Simulator,
    after: Arc<Mutex<HashMap<String, Duration>>>,
}

impl Told {
    pub(super) fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    /// The customer of this order is notified now.
    pub(super) fn now(&self, topup_id: &str) {
        if let Some(after) = self.simulator.decided_for(topup_id) {
            self.after().entry(topup_id.to_owned()).or_insert(after);
        }
    }

    fn after(&self) -> MutexGuard<'_, HashMap<String, Duration>> {
        self.after.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Load<'_> {
    /// A wait in real time.
    pub(super) fn real(&self, wait: Duration) -> Duration {
        wait.div_f64(self.settings.time_scale)
    }

    pub(super) async fn provider(&self) -> anyhow::Result<Provider> {
        let settings = SimulatorSettings {
            seed: SEED,
            rate_limit: RATE_LIMIT,
            mix: MIX,
            list_card: self.list_card,
            ..SimulatorSettings::default()
        };
        let simulator = Simulator::new(settings, self.settings.time_scale);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let serving = tokio::spawn(serve(listener, simulator.clone(), std::future::pending()));
        let told = Told { simulator, after: Arc::default() };
        Ok(Provider { url, told, _serving: AbortOnDropHandle::new(serving) })
    }

    /// Has the orders arrive, hands each over as it does, and waits until all have ended or time is up.
    pub(super) async fn arrive(
        &self,
        provider: &Provider,
        mut hand_over: impl AsyncFnMut(String) -> anyhow::Result<()>,
    ) -> anyhow::Result<Tracked> {
        let orders = self.arrivals * self.settings.minutes;
        let (simulator, mut rng) = (&provider.told.simulator, StdRng::seed_from_u64(SEED));
        let (mut next, mut ids) = (Instant::now(), Vec::new());
        for _ in 0..orders {
            // Customers come independently of each other.
            let minutes = -(1.0 - rng.random::<f64>()).ln() / f64::from(self.arrivals);
            next += self.real(Duration::from_secs_f64(minutes * 60.0));
            tokio::time::sleep_until(next).await;
            let topup_id = simulator.create_drawn();
            ids.push(topup_id.clone());
            hand_over(topup_id).await?;
        }
        let end = Instant::now() + self.real(Duration::from_mins(self.settings.settle_minutes.into()));
        while provider.told.after().len() < ids.len() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let requests = u32::try_from(simulator.total_calls())?;
        let refused =
            |id: &String| simulator.calls(id).iter().filter(|call| call.answer.starts_with("429")).count();
        let refused = u32::try_from(ids.iter().map(refused).sum::<usize>())?;
        let told = provider.told.after().clone();
        let after = |id: &String| told.get(id).copied().or_else(|| simulator.decided_for(id));
        let ms = |after: Duration| i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let mut told_after_ms: Vec<i64> = ids.iter().filter_map(after).map(ms).collect();
        told_after_ms.sort_unstable();
        Ok(Tracked {
            orders,
            ended: u32::try_from(told.len())?,
            requests,
            refused,
            busiest_minute: u32::try_from(simulator.busiest_minute())?,
            told_after_ms,
            rechecks_answered: (0, 0.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> BudgetSettings {
        BudgetSettings {
            arrivals: vec![600],
            minutes: 1,
            settle_minutes: 1,
            time_scale: 100.0,
            rechecks: 0,
            rechecks_lost: false,
            followers: Vec::new(),
        }
    }

    /// The cards of orders without notifications, and what was measured of them.
    async fn ignored(settings: &BudgetSettings) -> (Vec<Option<String>>, Tracked) {
        let load = Load { arrivals: 600, settings, list_card: ListCard::default() };
        let provider = load.provider().await.unwrap();
        let mut ids = Vec::new();
        let tracked = load.arrive(&provider, async |id| {
            ids.push(id);
            Ok(())
        });
        let tracked = tracked.await.unwrap();
        (ids.iter().map(|id| provider.told.simulator.card_code(id)).collect(), tracked)
    }

    #[tokio::test]
    async fn every_follower_gets_the_same_orders() {
        let settings = settings();
        let ((first, _), (second, _)) = (ignored(&settings).await, ignored(&settings).await);
        assert_eq!(first.len(), 600);
        assert_eq!(first, second);
    }

    #[tokio::test]
    async fn who_was_never_told_counts_with_the_time_until_the_end() {
        let (_, tracked) = ignored(&settings()).await;
        assert_eq!((tracked.orders, tracked.ended, tracked.requests), (600, 0, 0));
        assert_eq!(tracked.told_after_ms.len(), 600);
        assert!(tracked.told_after(0.0) >= 15.0, "all are final within 45 of the last 60 seconds");
    }
}
