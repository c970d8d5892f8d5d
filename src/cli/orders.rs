//! `topup-worker orders`: lists the stored orders that match the filters, the newest first. The command only reads,
//! shows no card, and masks customer data unless `--show-customer` is given.

use std::collections::BTreeSet;
use std::io::Write;

use clap::Args;
use serde::Serialize;
use topup_jobs::{Locale, Secret, TopupId};

use super::order_filter::OrderFilter;
use super::store::open_to_read;
use super::{one_line, say, time};
use crate::config::{RedisSettings, SettingsError, StoreSettings};
use crate::orders::{Found, Order, Search, SqlStore};

#[derive(Debug, Args)]
pub(super) struct OrdersSettings {
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    store: StoreSettings,

    #[command(flatten)]
    filter: OrderFilter,

    /// Maximum number of orders to show
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,

    /// Continue after this order, the last one of the previous page
    #[arg(long, value_name = "TOPUP_ID")]
    after: Option<String>,

    /// One JSON object per line
    #[arg(long, conflicts_with = "csv")]
    json: bool,

    /// CSV with a header line
    #[arg(long)]
    csv: bool,

    /// Show numbers and the customer's name, e-mail address and phone number in full
    #[arg(long)]
    show_customer: bool,
}

/// Maximum number of orders per database query.
const PAGE: u32 = 1000;

pub(super) async fn orders(settings: OrdersSettings) -> anyhow::Result<()> {
    let wrong =
        |why: topup_jobs::InvalidTopupId| SettingsError::Unusable { name: "--after", why: why.to_string() };
    let mut after: Option<TopupId> = settings.after.as_deref().map(str::parse).transpose().map_err(wrong)?;
    let search = settings.filter.search()?;
    let store = open_to_read(&settings.store, &settings.redis).await?;
    let mut out = Lines::new(&settings)?;
    let (mut left, mut none) = (settings.limit, after.is_none());
    while left > 0 {
        let wanted = left.min(PAGE);
        let found = store.search(&search, after.as_ref(), wanted).await?;
        let (count, last) = (u32::try_from(found.len()).unwrap_or(u32::MAX), found.last());
        after = last.map(|found| found.order.topup_id.clone()).or(after);
        found.iter().try_for_each(|found| out.show(found))?;
        left -= count.min(left);
        none &= count == 0;
        if count < wanted {
            out.end()?;
            return if none { nothing_found(&store, &search).await } else { Ok(()) };
        }
    }
    out.end()?;
    if let Some(last) = after
        && !store.search(&search, Some(&last), 1).await?.is_empty()
    {
        // On standard error, because another program may read the list from standard output.
        writeln!(std::io::stderr().lock(), "more orders match: --after {last}")?;
    }
    Ok(())
}

/// Maximum number of stored reasons to list if no order has the reason that was searched for.
const MAX_REASONS: usize = 10;

/// Reports that no order matches. If a reason was searched for, lists stored reasons, as the given one may be mistyped.
async fn nothing_found(store: &SqlStore, search: &Search) -> anyhow::Result<()> {
    if search.dead_letter.as_ref().is_none_or(String::is_empty) {
        return Ok(writeln!(std::io::stderr().lock(), "no order matches")?);
    }
    let any = Search { dead_letter: Some(String::new()), ..Search::default() };
    let found = store.search(&any, None, PAGE).await?;
    let mut err = std::io::stderr().lock();
    writeln!(err, "no order matches")?;
    let reasons: BTreeSet<String> =
        found.into_iter().filter_map(|found| found.given_up).map(|reason| one_line(&reason)).collect();
    if reasons.is_empty() {
        writeln!(err, "no order and no notification was given up")?;
    } else {
        writeln!(err, "orders and notifications were given up for these reasons:")?;
    }
    reasons.iter().take(MAX_REASONS).try_for_each(|reason| writeln!(err, "  {reason}"))?;
    Ok(())
}

enum Lines {
    Text { in_full: bool },
    Json { in_full: bool },
    Csv { writer: Box<csv::Writer<std::io::Stdout>>, in_full: bool },
}

impl Lines {
    fn new(settings: &OrdersSettings) -> anyhow::Result<Self> {
        let in_full = settings.show_customer;
        if !settings.csv {
            return Ok(if settings.json { Self::Json { in_full } } else { Self::Text { in_full } });
        }
        // The header is written here and not with the first order, so that the output has one even if no order matches.
        let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(std::io::stdout());
        writer.write_record(Row::NAMES)?;
        Ok(Self::Csv { writer: Box::new(writer), in_full })
    }

    fn show(&mut self, found: &Found) -> anyhow::Result<()> {
        match self {
            Self::Text { in_full } => say(line(found, *in_full)),
            Self::Json { in_full } => say(serde_json::to_string(&Row::new(found, *in_full))?),
            Self::Csv { writer, in_full } => Ok(writer.serialize(Row::new(found, *in_full))?),
        }
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if let Self::Csv { writer, .. } = self {
            writer.flush()?;
        }
        Ok(())
    }
}

/// An order in the CSV and JSON formats.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    topup_id: String,
    topup_ref: Option<String>,
    status: &'static str,
    #[serde(rename = "type")]
    kind: Option<String>,
    number: Option<String>,
    topup_amount: Option<i64>,
    tracked_at: String,
    last_checked_at: Option<String>,
    next_check_at: Option<String>,
    scheduled_at: Option<String>,
    fulfilled_at: Option<String>,
    refunded_at: Option<String>,
    cancelled_at: Option<String>,
    dead_letter: Option<String>,
    undelivered: u32,
    last_error: Option<String>,
    customer_name: Option<String>,
    customer_email: Option<String>,
    customer_phone: Option<String>,
    customer_locale: Option<Locale>,
}

impl Row {
    /// The header of the CSV format: the serialized names of the fields, in their order.
    const NAMES: [&'static str; 20] = [
        "topupId",
        "topupRef",
        "status",
        "type",
        "number",
        "topupAmount",
        "trackedAt",
        "lastCheckedAt",
        "nextCheckAt",
        "scheduledAt",
        "fulfilledAt",
        "refundedAt",
        "cancelledAt",
        "deadLetter",
        "undelivered",
        "lastError",
        "customerName",
        "customerEmail",
        "customerPhone",
        "customerLocale",
    ];

    fn new(found: &Found, in_full: bool) -> Self {
        let Found { order, given_up, undelivered } = found;
        let (tracking, shown) = (&order.tracking, Shown::new(order, in_full));
        Self {
            topup_id: order.topup_id.to_string(),
            topup_ref: order.topup_ref.clone(),
            status: tracking.status.as_str(),
            kind: order.kind.clone().map(String::from),
            number: shown.number,
            topup_amount: order.topup_amount,
            tracked_at: time(tracking.tracked_at),
            last_checked_at: tracking.last_checked_at.map(time),
            next_check_at: tracking.next_check_at.map(time),
            scheduled_at: tracking.scheduled_at.map(time),
            fulfilled_at: tracking.fulfilled_at.map(time),
            refunded_at: tracking.refunded_at.map(time),
            cancelled_at: order.cancelled_at.map(time),
            dead_letter: given_up.clone(),
            undelivered: *undelivered,
            last_error: tracking.last_error.clone(),
            customer_name: shown.name,
            customer_email: shown.email,
            customer_phone: shown.phone,
            customer_locale: order.customer.as_ref().map(|customer| customer.locale),
        }
    }
}

/// The number of an order and its customer's data, masked or in full.
struct Shown {
    number: Option<String>,
    name: Option<String>,
    email: Option<String>,
    phone: Option<String>,
}

impl Shown {
    fn new(order: &Order, in_full: bool) -> Self {
        let show = |secret: Option<&Secret>, mask: fn(&str) -> String| {
            secret.map(|text| if in_full { text.reveal().to_owned() } else { mask(text.reveal()) })
        };
        let customer = order.customer.as_ref();
        Self {
            number: show(order.number.as_ref(), masked_number),
            name: show(customer.and_then(|customer| customer.name.as_ref()), masked_name),
            email: show(customer.and_then(|customer| customer.email.as_ref()), masked_email),
            phone: show(customer.and_then(|customer| customer.phone.as_ref()), masked_number),
        }
    }
}

/// Hides all but the first three digits, because the page of a one-time link asks customers for the last digits.
fn masked_number(number: &str) -> String {
    number.chars().take(3).chain("••••••".chars()).collect()
}

fn masked_name(name: &str) -> String {
    name.chars().take(1).chain("•••".chars()).collect()
}

fn masked_email(address: &str) -> String {
    let (person, host) = address.rsplit_once('@').unwrap_or((address, ""));
    format!("{}@{host}", masked_name(person))
}

fn line(found: &Found, in_full: bool) -> String {
    let Found { order, given_up, undelivered } = found;
    let tracking = &order.tracking;
    let state = match (given_up, order.cancelled_at, tracking.next_check_at) {
        (Some(reason), ..) => format!("dead letter: {}", one_line(reason)),
        (None, Some(at), _) => format!("cancelled {}", time(at)),
        (None, None, Some(at)) => format!("next check {}", time(at)),
        (None, None, None) if tracking.status.is_final() => "final".to_owned(),
        (None, None, None) if order.discarded => "dead letter discarded".to_owned(),
        (None, None, None) => "no longer tracked".to_owned(),
    };
    let undelivered = if *undelivered > 0 { format!(", undelivered: {undelivered}") } else { String::new() };
    let (id, status, at) = (&order.topup_id, tracking.status.as_str(), time(tracking.tracked_at));
    let line = format!("{id}  {status:<9}  {at}  {state}{undelivered}");
    let shown = Shown::new(order, in_full);
    let customer = [shown.number, shown.name, shown.email, shown.phone].into_iter().filter(|_| in_full);
    let texts = std::iter::once(order.topup_ref.clone()).chain(customer).flatten();
    std::iter::once(line).chain(texts.map(|text| one_line(&text))).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use topup_jobs::Timestamp;

    use super::*;

    #[test]
    fn the_csv_header_equals_the_names_of_the_fields() {
        let id = "6901616fe9e88196b4eb64b2".parse().unwrap();
        let order = Order::new(id, Timestamp::UNIX_EPOCH);
        let found = Found { order, given_up: None, undelivered: 0 };
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.serialize(Row::new(&found, false)).unwrap();
        let table = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        assert_eq!(table.lines().next().unwrap(), Row::NAMES.join(","));
    }

    #[test]
    fn masked_values_hide_the_digits_that_the_page_of_a_link_asks_for() {
        assert_eq!(masked_number("036362608"), "036••••••");
        assert_eq!(masked_email("amina@example.dz"), "a•••@example.dz");
        assert_eq!(masked_email("no address"), "n•••@");
        assert_eq!(masked_name("أمينة"), "أ•••");
    }
}
