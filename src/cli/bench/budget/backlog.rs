//! Creates orders whose recheck is due when a measurement begins, as after a day without workers or a Redis data loss.

use chrono::TimeDelta;
use redis::AsyncCommands;
use tokio::time::Instant;
use topup_jobs::{JobName, OrderStatus, TopupId, TrackTopup, Tracking};

use super::super::bench_redis::BenchRedis;
use super::load::{Load, Provider};
use crate::clock::real_now;
use crate::orders::{self, CardCipher, Change, OrderStore};
use crate::simulator::{Script, Simulator};

pub(super) struct Backlog {
    ids: Vec<String>,
    began: Instant,
}

impl Backlog {
    /// Creates orders that are QUEUED at the provider and were due for a recheck an hour ago. With `rechecks_lost` only
    /// the store holds them, as after a data loss of Redis. Otherwise the inbox also holds a recheck message for each.
    pub(super) async fn prepare(
        load: &Load<'_>,
        bench: &BenchRedis,
        provider: &Provider,
        database: &str,
    ) -> anyhow::Result<Self> {
        let store = orders::open(database, CardCipher::new(&bench.encryption_key)?).await?;
        let due = real_now() - TimeDelta::hours(1);
        let (mut ids, mut redis) = (Vec::new(), bench.redis.clone());
        for _ in 0..load.settings.rechecks {
            let id = provider.notified.simulator().create(Script::queued_forever());
            let topup_id: TopupId = id.parse()?;
            let order = store.track(&TrackTopup::new(topup_id), due - TimeDelta::days(1)).await?;
            let status = OrderStatus::Scheduled;
            let (scheduled_at, next_check_at) = (Some(due - TimeDelta::days(1)), Some(due));
            let record = Tracking { status, scheduled_at, next_check_at, ..order.tracking.clone() };
            let job = JobName::PollTopup;
            let change = Change {
                job,
                at: due,
                order: &order,
                record: &record,
                seen: None,
                given_up: None,
                event: None,
            };
            store.apply(change).await?;
            if !load.settings.rechecks_lost {
                let data = format!(r#"{{"topupId":"{id}"}}"#);
                let fields = [("name", JobName::RecheckTopup.as_str()), ("data", &data)];
                let _id: String = redis.xadd(bench.names.inbox(), "*", &fields).await?;
            }
            ids.push(id);
        }
        Ok(Self { ids, began: Instant::now() })
    }

    /// Returns how many rechecks the provider has answered: in all, and per minute of domain (scaled) time.
    pub(super) fn answered(&self, simulator: &Simulator, time_scale: f64) -> (u32, f64) {
        let answered = self.ids.iter().filter(|id| !simulator.calls(id).is_empty()).count();
        let answered = u32::try_from(answered).unwrap_or(u32::MAX);
        let minutes = self.began.elapsed().as_secs_f64() * time_scale / 60.0;
        (answered, f64::from(answered) / minutes)
    }
}
