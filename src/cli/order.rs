//! `topup-worker order <topupId>`: shows an order as stored, whether it is tracked, its notifications and its history.
//! The command only reads, needs no key, and prints no card or customer data, because terminal output may be recorded.

use std::collections::HashSet;

use clap::Args;
use topup_jobs::TopupId;

use super::standing::{self, InRedis};
use super::store::open_to_read;
use super::{say, time};
use crate::config::{RedisSettings, SettingsError, StoreSettings};
use crate::orders::{Attempt, HistoryEntry, Occurrence, OrderStore};

#[derive(Debug, Args)]
pub(super) struct OrderSettings {
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    store: StoreSettings,

    /// The provider's id of the order
    topup_id: String,
}

pub(super) async fn order(settings: OrderSettings) -> anyhow::Result<()> {
    let topup_id: TopupId = settings.topup_id.parse().map_err(|why: topup_jobs::InvalidTopupId| {
        SettingsError::Unusable { name: "<TOPUP_ID>", why: why.to_string() }
    })?;
    let store = match open_to_read(&settings.store, &settings.redis).await {
        Ok(store) => store,
        Err(error) => return without_store(&settings.redis, &topup_id, error).await,
    };
    let order = store.order(&topup_id).await?;
    let in_redis = InRedis::ask(&settings.redis, &topup_id, order.is_some()).await?;
    let Some(order) = order else {
        return not_stored(&topup_id, &in_redis);
    };
    let (notifications, history) = (store.notifications(&topup_id).await?, store.history(&topup_id).await?);
    for line in standing::lines(&order, &in_redis, &history, &notifications) {
        say(line)?;
    }
    let card = if store.has_card(&topup_id).await? { "stored, encrypted" } else { "none" };
    let tracking = &order.tracking;
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let lines = [
        ("order", topup_id.to_string()),
        ("reference", or_none(order.topup_ref.clone())),
        ("status", tracking.status.to_string()),
        ("type", or_none(order.kind.clone().map(String::from))),
        ("amount", or_none(order.topup_amount.map(|amount| format!("{amount} DA")))),
        ("card", card.to_owned()),
        ("tracked at", time(Some(tracking.tracked_at))),
        ("last checked at", time(tracking.last_checked_at)),
        ("next check at", time(tracking.next_check_at)),
        ("queue", standing::queue(&in_redis)),
        ("scheduled at", time(tracking.scheduled_at)),
        ("fulfilled at", time(tracking.fulfilled_at)),
        ("refunded at", time(tracking.refunded_at)),
        ("cancelled at", time(order.cancelled_at)),
        ("last error", or_none(tracking.last_error.clone())),
    ];
    for (name, value) in lines {
        say(format_args!("{name:<16} {value}"))?;
    }
    for notification in notifications {
        let (outcome, incident) = (notification.outcome, notification.incident);
        let (channel, status) = (notification.channel, notification.status.as_str());
        let at = time(notification.sent_at.or(notification.next_attempt_at));
        let error = notification.last_error.map(|error| format!(" ({error})")).unwrap_or_default();
        say(format_args!(
            "{:<16} {outcome}{incident} by {channel}: {status} {at}, {} attempts{error}",
            "notification", notification.attempts
        ))?;
    }
    say("history")?;
    for entry in without_begun(history) {
        say(format_args!("{} {}", time(Some(entry.at)), entry.what))?;
    }
    Ok(())
}

/// Without the database, prints which message in Redis names the order; returns `error` if no message does.
async fn without_store(
    redis: &RedisSettings,
    topup_id: &TopupId,
    error: anyhow::Error,
) -> anyhow::Result<()> {
    let in_redis = InRedis::ask(redis, topup_id, false).await?;
    in_redis.of_message(topup_id).map_or(Err(error), say)
}

/// Prints where Redis holds an order that is not stored. Returns an error if Redis does not hold the order either.
fn not_stored(topup_id: &TopupId, in_redis: &InRedis) -> anyhow::Result<()> {
    if let Some(place) = in_redis.of_unknown(topup_id) {
        return say(place);
    }
    let redis =
        if in_redis.is_silent() { "Redis does not answer" } else { "it is in no queue and no message" };
    anyhow::bail!(
        "order {topup_id} is not stored, and {redis}; check that it was enqueued, that DATABASE_URL is that of the \
         workers, and that the order is not older than RETENTION_DAYS"
    )
}

/// Removes the last `Begun` entry before each attempt's result. Earlier ones stay, because those runs were cut short.
fn without_begun(mut history: Vec<HistoryEntry>) -> Vec<HistoryEntry> {
    let mut ended = HashSet::new();
    history.reverse();
    history.retain(|entry| match &entry.what {
        Occurrence::NotificationAttempt {
            outcome,
            incident,
            channel,
            attempt,
            result: Attempt::Begun,
            ..
        } => !ended.remove(&(*outcome, *incident, channel.clone(), *attempt)),
        Occurrence::NotificationAttempt { outcome, incident, channel, attempt, .. } => {
            ended.insert((*outcome, *incident, channel.clone(), *attempt));
            true
        }
        _ => true,
    });
    history.reverse();
    history
}

#[cfg(test)]
mod tests {
    use topup_jobs::{Incident, Outcome, Timestamp};

    use super::*;

    #[test]
    fn a_finished_attempt_is_one_line_and_an_interrupted_one_stays_visible() {
        let notification = |attempt, result| HistoryEntry {
            at: Timestamp::UNIX_EPOCH,
            what: Occurrence::NotificationAttempt {
                outcome: Outcome::Fulfilled,
                incident: Incident::FIRST,
                channel: "webhook".to_owned(),
                attempt,
                result,
                error: None,
            },
        };
        // Attempt 1 begins twice, because its worker died and another worker repeated the attempt.
        let cut_short = notification(1, Attempt::Begun);
        let history = vec![
            cut_short.clone(),
            notification(1, Attempt::Begun),
            notification(1, Attempt::Retry),
            notification(2, Attempt::Begun),
            notification(2, Attempt::Sent),
        ];
        let shown = without_begun(history);
        assert_eq!(shown, [cut_short, notification(1, Attempt::Retry), notification(2, Attempt::Sent)]);
        assert_eq!(shown[2].what.to_string(), "event fulfilled to webhook, attempt 2: sent");
    }
}
