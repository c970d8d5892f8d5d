//! The baseline of the comparison: `pollTopupAdaptive`, the polling loop of the provider's guide, one task per order.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use topup_jobs::{TopupId, TopupStatus};
use url::Url;

use super::load::{Load, Tracked};
use crate::provider::{Client, TopupApi};

/// `maxDuration` in the provider's guide: after this time the loop stops checking the order.
const MAX_DURATION: Duration = Duration::from_mins(5);

pub(super) async fn track(load: &Load<'_>, patient: bool) -> anyhow::Result<Tracked> {
    let provider = load.provider().await?;
    let client = Client::new(&Url::parse(&provider.url)?, &"sandbox-key".into())?;
    let mut loops = JoinSet::new();
    load.arrive(&provider, async |topup_id| {
        let (client, notified, scale) = (client.clone(), provider.notified.clone(), load.settings.time_scale);
        let id: TopupId = topup_id.parse()?;
        loops.spawn(async move {
            if poll_topup_adaptive(&client, &id, scale, patient).await {
                notified.now(&topup_id);
            }
        });
        Ok(())
    })
    .await
}

/// Runs `pollTopupAdaptive` of the provider's guide. Returns true once the order is FULFILLED, REFUNDED or QUEUED, and
/// false after [`MAX_DURATION`]. If `patient` is false, the first error also ends the loop with false.
async fn poll_topup_adaptive(client: &Client, id: &TopupId, scale: f64, patient: bool) -> bool {
    let start_time = Instant::now();
    let elapsed = || start_time.elapsed().mul_f64(scale);
    let mut poll_interval = Duration::from_secs(3);
    while elapsed() < MAX_DURATION {
        match client.check_id(id).await {
            Ok(order) => {
                let is_final = [TopupStatus::Fulfilled, TopupStatus::Refunded, TopupStatus::Queued];
                if is_final.contains(&order.status) {
                    return true;
                }
            }
            Err(_) if patient => {}
            Err(_) => return false,
        }
        if elapsed() > Duration::from_mins(1) {
            poll_interval = Duration::from_secs(10);
        } else if elapsed() > Duration::from_secs(30) {
            poll_interval = Duration::from_secs(5);
        }
        tokio::time::sleep(poll_interval.div_f64(scale)).await;
    }
    false
}
