//! `topup-worker resend <topupId>`: sends what is pending of an order now, or one of its events again.
//!
//! The store is changed before the queue is. Where Redis fails in between, a worker puts what the store holds as
//! pending into the queue. Only ids, channels and what was done are shown.

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

/// What was done, as it stands in the history of the order.
const RESENT: &str = "resent by the operator";

#[derive(Debug, Args)]
pub(super) struct ResendSettings {
    /// The provider's id of the order
    topup_id: String,

    /// Send this event again under its id, such as `evt_…_fulfilled`, also where it was delivered, refused or given up,
    /// and by a channel that can deliver it only now; without --channel by every channel, the customer's mail and SMS
    /// among them
    #[arg(long)]
    event: Option<String>,

    /// Only by this channel, such as webhook, callback, email or sms
    #[arg(long)]
    channel: Option<String>,

    #[command(flatten)]
    run: RunSettings,
}

/// A notification that is meant, and its status before; none where the event was not recorded for this channel.
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
            // Its attempts go on counting: it is only sooner.
            Some(NotificationStatus::Pending) => store.hasten(&notification, now).await?,
            Some(_) => store.notify_again(&notification, RESENT, true, now).await?,
            None => store.add_notification(&notification, RESENT, now).await?,
        };
        if stored {
            due.push((notification, before));
        } else {
            line(&notification, "left: it was sent, or ended, a moment ago")?;
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    let jobs: Vec<NotifyCustomer> = due.iter().map(|(notification, _)| notification.clone()).collect();
    let results = make_due(&connection, &config.names, &jobs).await.map_err(|error| {
        anyhow::anyhow!(
            "Redis failed: {}. The database holds these notifications as pending, and a worker puts them into the \
             queue within half a minute of Redis being back; look with `topup-worker order {topup_id}` before you \
             repeat this",
            describe(&error)
        )
    })?;
    for ((notification, before), resent) in due.iter().zip(results) {
        line(notification, done(*before, resent))?;
    }
    Ok(())
}

/// The notifications meant: those of one event, also by channels that want it now and had none of it, or all that are
/// pending.
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
        (Resent::UnderWay, _) => "is due already, or on its way",
        (Resent::Hastened, _) => "waited for its next attempt: is due now",
        (Resent::Replayed, _) => "was a dead letter: is due now, with all its attempts",
        (Resent::Added, None) => "could not be sent by this channel before: is due now",
        (Resent::Added, Some(NotificationStatus::Sent)) => "was delivered before: is sent again",
        (Resent::Added, Some(NotificationStatus::Pending)) => "was in no queue: is due now",
        (Resent::Added, Some(_)) => "was given up: is due now, with all its attempts",
    }
}
