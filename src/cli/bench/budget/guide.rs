//! The peer: the adaptive loop of the provider's guide, one task for each order.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use topup_jobs::{TopupId, TopupStatus};
use url::Url;

use super::load::{Load, Tracked};
use crate::provider::{Client, TopupApi};

/// The guide's `maxDuration`.
const MAX_DURATION: Duration = Duration::from_mins(5);

pub(super) async fn follow(load: &Load<'_>, patient: bool) -> anyhow::Result<Tracked> {
    let provider = load.provider().await?;
    let client = Client::new(&Url::parse(&provider.url)?, &"sandbox-key".into())?;
    let mut loops = JoinSet::new();
    load.arrive(&provider, async |topup_id| {
        let (client, told, scale) = (client.clone(), provider.told.clone(), load.settings.time_scale);
        let id: TopupId = topup_id.parse()?;
        loops.spawn(async move {
            if poll_topup_adaptive(&client, &id, scale, patient).await {
                told.now(&topup_id);
            }
        });
        Ok(())
    })
    .await
}

/// `pollTopupAdaptive` of the guide; false where it throws.
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
