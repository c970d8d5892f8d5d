//! `topup-worker stop <topupId>…`: ends the tracking of orders. The command sends one message per order and needs only
//! Redis. Notifications already recorded are still delivered. `check` or a new producer message resumes tracking.

use clap::Args;
use serde_json::Map;

use super::messages::{about, send};
use super::store::workers_must_have_run;
use super::topup_ids::TopupIds;
use super::{connect, say};
use crate::config::RedisSettings;
use crate::queue::{Whereabouts, whereabouts};

#[derive(Debug, Args)]
pub(super) struct StopSettings {
    #[command(flatten)]
    redis: RedisSettings,

    #[command(flatten)]
    ids: TopupIds,
}

pub(super) async fn stop(settings: StopSettings) -> anyhow::Result<()> {
    let ids = settings.ids.read()?;
    let connection = connect(&settings.redis)?;
    workers_must_have_run(&connection, &settings.redis.prefix).await?;
    let places = whereabouts(&connection, &settings.redis.prefix, &ids).await.unwrap_or_default();
    let messages: Vec<_> = ids.iter().map(|id| about("cancel-topup", id, Map::new())).collect();
    let sent = send(&connection, &settings.redis, &messages).await?;
    for (n, (id, message)) in ids.iter().zip(sent).enumerate() {
        let outlook = match places.get(n) {
            None | Some(Whereabouts::Waits(..) | Whereabouts::UnderWay(_)) => {
                "the order is no longer tracked"
            }
            Some(Whereabouts::DeadLetter(_)) => {
                "the order is a dead letter and is not tracked; `topup-worker dead-letters discard` deletes it"
            }
            Some(Whereabouts::Nowhere) => {
                "the order is in no queue. If it is stored and not final, it is no longer tracked; if it is not \
                 stored, the message becomes a dead letter"
            }
        };
        say(format_args!("{id}  message {message}: {outlook}"))?;
    }
    Ok(())
}
