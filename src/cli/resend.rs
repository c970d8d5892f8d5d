//! `topup-worker resend <topupId>`: sends the pending notifications of an order now, or one of its events again. The
//! store is changed first, then the queue. If Redis fails after the change of the store, a worker enqueues the
//! notifications that are pending in the store. Only ids, channels and results are shown.

use clap::Args;
use secrecy::ExposeSecret;
use topup_jobs::{NotifyCustomer, Outcome, TopupId};

use super::say;
use super::store::must_belong;
use crate::app::wanting;
use crate::clock::real_now;
use crate::config::{RunSettings, SettingsError};
use crate::orders::{self, Access, NotificationStatus, Order, OrderStore, SqlStore};
use crate::queue::{Resent, mark_dead_letters, resend as make_due};
use crate::redis::{Connection, RedisHealth, describe};

/// Reason that the order's history shows after a resend.
const RESENT: &str = "resent by the operator";

#[derive(Debug, Args)]
pub(super) struct ResendSettings {
    /// The provider's id of the order
    topup_id: String,

    /// Id of an event to send again, such as `evt_…_fulfilled`, even if it was delivered, refused or given up. Without
    /// --channel it is sent by every channel that can send it now, including the customer's mail and SMS
    #[arg(long)]
    event: Option<String>,

    /// Send only by this channel, such as webhook, callback, email or sms
    #[arg(long)]
    channel: Option<String>,

    #[command(flatten)]
    run: RunSettings,
}

/// A notification to send, and its stored status. Without a status, the event has no notification by this channel yet.
type Chosen = (NotifyCustomer, Option<NotificationStatus>);

pub(super) async fn resend(settings: ResendSettings) -> anyhow::Result<()> {
    let topup_id: TopupId = settings.topup_id.parse().map_err(|why: topup_jobs::InvalidTopupId| {
        SettingsError::Unusable { name: "<TOPUP_ID>", why: why.to_string() }
    })?;
    let config = settings.run.validate()?;
    let connection = Connection::new(&config.redis, &RedisHealth::default());
    let (url, cipher) = (config.database_url.expose_secret(), config.cipher.clone());
    let store = orders::open_existing(url, Some(cipher), Access::Write).await?;
    must_belong(&store, &connection, &config.names).await?;
    let order = store.order(&topup_id).await?;
    let order = order.ok_or_else(|| anyhow::anyhow!("no order {topup_id} is stored"))?;
    let (event, channel) = (settings.event.as_deref(), settings.channel.as_deref());
    let chosen =
        chosen(&store, &order, event, channel, |outcome| wanting(&config, &connection, outcome, &order))
            .await?;
    if chosen.is_empty() {
        return say(format_args!(
            "no notification of order {topup_id} is pending; --event sends an event again, and \
             `topup-worker order {topup_id}` lists the events"
        ));
    }
    let marked =
        mark_dead_letters(&connection, &config.names, chosen.iter().map(|(notification, _)| notification));
    marked
        .await
        .map_err(|error| anyhow::anyhow!("Redis failed, nothing was changed: {}", describe(&error)))?;
    let mut due = Vec::new();
    for (notification, before) in chosen {
        let now = real_now();
        let stored = match before {
            // A pending notification only becomes due now; its attempts so far still count.
            Some(NotificationStatus::Pending) => store.hasten(&notification, now).await?,
            Some(_) => store.notify_again(&notification, RESENT, true, now).await?,
            None => store.add_notification(&notification, RESENT, now).await?,
        };
        if stored {
            due.push((notification, before));
        } else {
            line(&notification, "not changed: it was sent or ended a moment ago")?;
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    let jobs: Vec<NotifyCustomer> = due.iter().map(|(notification, _)| notification.clone()).collect();
    let results = make_due(&connection, &config.names, &jobs).await.map_err(|error| {
        anyhow::anyhow!(
            "Redis failed: {}. A worker sends these pending notifications within half a minute of Redis being back; \
             check with `topup-worker order {topup_id}` before you repeat this",
            describe(&error)
        )
    })?;
    for ((notification, before), resent) in due.iter().zip(results) {
        line(notification, done(*before, resent))?;
    }
    Ok(())
}

/// Without `event`, selects the pending notifications of the order. With `event`, selects all notifications of the
/// event, and adds one for each channel that can send the event now but has no notification yet.
async fn chosen(
    store: &SqlStore,
    order: &Order,
    event: Option<&str>,
    channel: Option<&str>,
    wanting: impl FnOnce(Outcome) -> anyhow::Result<Vec<String>>,
) -> anyhow::Result<Vec<Chosen>> {
    let topup_id = &order.topup_id;
    let all = store.notifications(topup_id).await?;
    let mut all: Vec<Chosen> = all.iter().map(|one| (one.payload(topup_id), Some(one.status))).collect();
    if let Some(event) = event {
        all.retain(|(notification, _)| notification.event_id().as_str() == event);
        let Some((of_event, _)) = all.first().cloned() else {
            anyhow::bail!("order {topup_id} has no event {event}");
        };
        for channel in wanting(of_event.outcome)? {
            if all.iter().all(|(notification, _)| notification.channel != channel) {
                all.push((NotifyCustomer { channel, ..of_event.clone() }, None));
            }
        }
    }
    if let Some(channel) = channel {
        all.retain(|(notification, _)| notification.channel == channel);
        anyhow::ensure!(!all.is_empty(), "no notification of order {topup_id} goes by the channel {channel}");
    }
    all.retain(|(_, status)| event.is_some() || *status == Some(NotificationStatus::Pending));
    Ok(all)
}

fn line(notification: &NotifyCustomer, done: &str) -> anyhow::Result<()> {
    say(format_args!("{}  {:<16}  {done}", notification.event_id(), notification.channel))
}

const fn done(before: Option<NotificationStatus>, resent: Resent) -> &'static str {
    match (resent, before) {
        (Resent::UnderWay, _) => "is already due or being sent",
        (Resent::Hastened, _) => "waited for its next attempt: is due now",
        (Resent::Replayed, _) => "was a dead letter: is due now, with all its attempts",
        (Resent::Added, None) => "could not be sent by this channel before: is due now",
        (Resent::Added, Some(NotificationStatus::Sent)) => "was delivered before: is sent again",
        (Resent::Added, Some(NotificationStatus::Pending)) => "was in no queue: is due now",
        (Resent::Added, Some(_)) => "was given up: is due now, with all its attempts",
    }
}
