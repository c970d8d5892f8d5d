//! `topup-worker check <topupId>…`: asks the workers to check orders now, at the pace that the provider allows. The
//! command sends one message per order. Orders named by id need only Redis. Orders selected by filters are read from
//! the database; without `--yes` they are only counted.

use clap::Args;
use serde_json::Map;
use topup_jobs::TopupId;

use super::messages::{about, send};
use super::order_filter::OrderFilter;
use super::store::{must_belong, open_to_read, workers_must_have_run};
use super::topup_ids::TopupIds;
use super::{connect, say};
use crate::config::{RedisSettings, SettingsError, StoreSettings};
use crate::orders::SqlStore;
use crate::queue::{Whereabouts, whereabouts};

/// Maximum number of orders per database query.
const PAGE: u32 = 1000;

#[derive(Debug, Args)]
pub(super) struct CheckSettings {
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    store: StoreSettings,

    #[command(flatten)]
    ids: TopupIds,

    #[command(flatten)]
    filter: OrderFilter,

    /// Check the orders that match the filters; without --yes they are only counted
    #[arg(long)]
    yes: bool,
}

pub(super) async fn check(settings: CheckSettings) -> anyhow::Result<()> {
    if settings.filter.is_empty() {
        return check_named(&settings, &settings.ids.read()?).await;
    }
    if !settings.ids.topup_ids.is_empty() {
        let why = "name orders by their ids or by filters, not by both".to_owned();
        return Err(SettingsError::Unusable { name: "<TOPUP_ID>", why }.into());
    }
    check_found(&settings).await
}

async fn check_named(settings: &CheckSettings, ids: &[TopupId]) -> anyhow::Result<()> {
    let connection = connect(&settings.redis)?;
    workers_must_have_run(&connection, &settings.redis.prefix).await?;
    // If the queues cannot be read, the messages are still sent, because the Redis user may be allowed only to send.
    let places = whereabouts(&connection, &settings.redis.prefix, ids).await.unwrap_or_default();
    let messages: Vec<_> = ids.iter().map(|id| about("check-topup", id, Map::new())).collect();
    let sent = send(&connection, &settings.redis, &messages).await?;
    for (n, (id, message)) in ids.iter().zip(sent).enumerate() {
        say(format_args!("{id}  message {message}: {}", outlook(places.get(n))))?;
    }
    Ok(())
}

/// Describes what the message will do to the order. `place` is `None` if the queues in Redis could not be read.
fn outlook(place: Option<&Whereabouts>) -> String {
    match place {
        None => "the order is checked now".to_owned(),
        Some(Whereabouts::Waits(job, _)) => format!("the order waited in {job}, and is checked now"),
        Some(Whereabouts::UnderWay(job)) => format!("the order is already due in {job} or being checked"),
        Some(Whereabouts::DeadLetter(reason)) => {
            format!("the order was a dead letter ({}), and is tracked again", super::one_line(reason))
        }
        Some(Whereabouts::Nowhere) => {
            "the order is in no queue. If it is stored, it is checked once; if not, the message becomes a dead letter"
                .to_owned()
        }
    }
}

async fn check_found(settings: &CheckSettings) -> anyhow::Result<()> {
    let search = settings.filter.search()?;
    let store = open_to_read(&settings.store, &settings.redis).await?;
    let count = store.count(&search).await?;
    if !settings.yes {
        return say(format_args!("{count} orders match; repeat with --yes to check each of them now"));
    }
    let connection = connect(&settings.redis)?;
    must_belong(&store, &connection, &settings.redis.prefix).await?;
    let mut sent = 0;
    let mut after = None;
    loop {
        let ids = page(&store, &search, after.as_ref()).await?;
        let messages: Vec<_> = ids.iter().map(|id| about("check-topup", id, Map::new())).collect();
        sent += send(&connection, &settings.redis, &messages).await?.len();
        let Some(last) = ids.into_iter().next_back() else { break };
        after = Some(last);
    }
    say(format_args!("{sent} orders are checked now, at the pace that the provider allows"))
}

async fn page(
    store: &SqlStore,
    search: &crate::orders::Search,
    after: Option<&TopupId>,
) -> anyhow::Result<Vec<TopupId>> {
    Ok(store.search(search, after, PAGE).await?.into_iter().map(|found| found.order.topup_id).collect())
}
