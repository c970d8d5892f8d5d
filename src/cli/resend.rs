//! `topup-worker resend <topupId>`: has what is still to be told of an order told now, or one of its events again.
//!
//! The store is brought in line before the queue is, as for a dead letter that is replayed: a crash between the two
//! leaves the job where it was, and the command can be given again. Only ids, channels and what was done are shown.

use clap::Args;
use topup_jobs::{NotifyCustomer, TopupId};

use super::say;
use crate::clock::real_now;
use crate::config::{RedisSettings, SettingsError, StoreSettings};
use crate::orders::{self, Notification, NotificationStatus, OrderStore, SqlStore};
use crate::queue::{Connection, RedisHealth, Resent, describe, resend as make_due};

/// What was done, as it stands in the history of the order.
const RESENT: &str = "resent by the operator";

#[derive(Debug, Args)]
pub(super) struct ResendSettings {
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    store: StoreSettings,

    /// The provider's id of the order
    topup_id: String,

    /// Send this event again under its id, such as `evt_…_fulfilled`, also where it was delivered, refused or given up
    #[arg(long)]
    event: Option<String>,

    /// Only by this channel, such as webhook, callback, email or sms
    #[arg(long)]
    channel: Option<String>,
}

pub(super) async fn resend(settings: ResendSettings) -> anyhow::Result<()> {
    let topup_id: TopupId = settings.topup_id.parse().map_err(|why: topup_jobs::InvalidTopupId| {
        SettingsError::Unusable { name: "<TOPUP_ID>", why: why.to_string() }
    })?;
    let address = settings.redis.address()?;
    let store = orders::open(settings.store.database_url()?, settings.store.cipher()?).await?;
    let chosen = chosen(&store, &topup_id, settings.event.as_deref(), settings.channel.as_deref()).await?;
    if chosen.is_empty() {
        return say(format_args!(
            "nothing is still to be told of order {topup_id}; with --event an event is sent again, and \
             `topup-worker order {topup_id}` lists what was told"
        ));
    }
    let mut due = Vec::new();
    for notification in &chosen {
        let told = notification.told(&topup_id);
        let now = real_now();
        let stored = if notification.status == NotificationStatus::Pending {
            // Its attempts go on counting: it is only sooner.
            store.hasten(&told, now).await?
        } else {
            store.tell_again(&told, RESENT, true, now).await?
        };
        if stored {
            due.push((notification, told));
        } else {
            line(&told, "left: it was told, or ended, a moment ago")?;
        }
    }
    if due.is_empty() {
        return Ok(());
    }
    let connection = Connection::new(&address, &RedisHealth::default());
    let jobs: Vec<NotifyCustomer> = due.iter().map(|(_, told)| told.clone()).collect();
    let results = make_due(&connection, &settings.redis.prefix, &jobs).await.map_err(|error| {
        anyhow::anyhow!("Redis did not do it, and nothing is sent sooner: {}", describe(&error))
    })?;
    for ((notification, told), resent) in due.iter().zip(results) {
        line(told, done(notification.status, resent))?;
    }
    Ok(())
}

/// The notifications meant: those of one event, or all that are still to be told.
async fn chosen(
    store: &SqlStore,
    topup_id: &TopupId,
    event: Option<&str>,
    channel: Option<&str>,
) -> anyhow::Result<Vec<Notification>> {
    anyhow::ensure!(store.order(topup_id).await?.is_some(), "no order {topup_id} is stored");
    let mut all = store.notifications(topup_id).await?;
    if let Some(event) = event {
        all.retain(|one| one.told(topup_id).event_id().as_str() == event);
        anyhow::ensure!(!all.is_empty(), "order {topup_id} has no event {event}");
    }
    if let Some(channel) = channel {
        all.retain(|one| one.channel == channel);
        anyhow::ensure!(!all.is_empty(), "no notification of order {topup_id} goes by the channel {channel}");
    }
    all.retain(|one| event.is_some() || one.status == NotificationStatus::Pending);
    Ok(all)
}

fn line(told: &NotifyCustomer, done: &str) -> anyhow::Result<()> {
    say(format_args!("{}  {:<16}  {done}", told.event_id(), told.channel))
}

const fn done(before: NotificationStatus, resent: Resent) -> &'static str {
    match (resent, before) {
        (Resent::UnderWay, _) => "is due already, or on its way",
        (Resent::Hastened, _) => "waited for its next attempt: is due now",
        (Resent::Replayed, _) => "was a dead letter: is due now, with all its attempts",
        (Resent::Added, NotificationStatus::Sent) => "was delivered before: is sent again",
        (Resent::Added, NotificationStatus::Pending) => "was in no queue: is due now",
        (Resent::Added, _) => "was given up: is due now, with all its attempts",
    }
}
