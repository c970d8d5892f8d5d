//! Details of an order from producers: customer, metadata, callback URL. Each detail has the value from the newest
//! message that names it, in whatever sequence the messages are applied.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use topup_jobs::{Customer, InstructionKind, Secret, TrackTopup};

use super::database::Transaction;
use super::statement::{Row, sql};
use super::{json, read_json};
use crate::orders::{StoreError, contact};

#[derive(PartialEq, Clone)]
struct Details {
    customer: Option<Customer>,
    metadata: Option<Map<String, Value>>,
    callback_url: Option<Secret>,
}

/// Maps the name of a detail to the newest message that named it.
type NamedBy = BTreeMap<String, String>;

/// Key in [`NamedBy`] of the newest message that is no correction: it decides whether the order is tracked.
const TRACKED: &str = "tracked";
const CUSTOMER: [&str; 4] = ["name", "email", "phone", "locale"];
const METADATA: &str = "metadata";
const CALLBACK_URL: &str = "callbackUrl";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Merged {
    /// Whether the request's message is the newest that is no correction, and so decides whether the order is tracked.
    pub(super) newest: bool,
    /// The changed details, by their names in the history.
    pub(super) changed: Vec<&'static str>,
}

/// Merges a request's details into a stored order. A request without a message, such as a job pushed by a producer,
/// only adds missing details. A change raises the order's version, so a check in progress conflicts and is repeated.
pub(super) async fn merge(open: &mut Transaction, request: &TrackTopup) -> Result<Merged, StoreError> {
    // Locks the order, so that of two concurrent messages the newer one wins.
    let hold = sql("UPDATE internet_orders SET topup_id = topup_id WHERE topup_id = $1");
    open.execute(hold.bind(request.topup_id.as_str())).await?;
    let select = sql("SELECT topup_ref, customer, metadata, callback_url, message_id, named_by, retry
         FROM internet_orders WHERE topup_id = $1");
    let Some(row) = open.fetch_optional(select.bind(request.topup_id.as_str())).await? else {
        return Ok(Merged::default());
    };
    let before = read(&row)?;
    let mut naming = Naming::new(&row, &before, request.message_id.as_deref())?;
    let after = naming.after(&before, request);
    let correction = request.instruction.is_some_and(|it| it.kind == InstructionKind::Correct);
    let changed = [
        (after.customer != before.customer, "customer"),
        (after.metadata != before.metadata, "metadata"),
        (after.callback_url != before.callback_url, "callback URL"),
    ];
    let merged = Merged {
        newest: !correction && request.message_id.is_some() && naming.names(TRACKED, true),
        changed: changed.into_iter().filter_map(|(changed, name)| changed.then_some(name)).collect(),
    };
    let (email, phone) = contact::of(after.customer.as_ref());
    let retry: Option<String> = row.get("retry")?;
    let named_retry = request.retry.as_ref().map(json);
    let retry = if merged.newest { named_retry.or(retry) } else { retry.or(named_retry) };
    let update =
        sql("UPDATE internet_orders SET topup_ref = coalesce(topup_ref, $1), customer = $2, metadata = $3,
             callback_url = $4, message_id = $5, named_by = $6, contact_email = $7, contact_phone = $8, retry = $9,
             version = version + $10
         WHERE topup_id = $11")
        .bind(request.topup_ref.as_deref())
        .bind(after.customer.as_ref().map(json))
        .bind(after.metadata.as_ref().map(json))
        .bind(after.callback_url.as_ref().map(Secret::reveal))
        .bind(naming.newest_message())
        .bind(json(&naming.by))
        .bind(email)
        .bind(phone)
        .bind(retry)
        .bind(i64::from(!merged.changed.is_empty()))
        .bind(request.topup_id.as_str());
    open.change("internet_orders", update).await?;
    Ok(merged)
}

fn read(row: &Row) -> Result<Details, StoreError> {
    let text = |column| row.get::<Option<String>>(column);
    Ok(Details {
        customer: text("customer")?.map(|text| read_json(&text, "customer")).transpose()?,
        metadata: text("metadata")?.map(|text| read_json(&text, "metadata")).transpose()?,
        callback_url: text("callback_url")?.map(Secret::new),
    })
}

/// Of two messages the one with the later intake time is newer. If the times differ by at most this, the stream ids
/// decide instead, because workers take in messages in parallel.
const IDS_AGREE_MS: u64 = 10_000;

/// Decides which details a request sets, by the newest message that named each detail.
struct Naming<'a> {
    by: NamedBy,
    message: Option<&'a str>,
    stored_message: Option<String>,
}

impl<'a> Naming<'a> {
    fn new(row: &Row, stored: &Details, message: Option<&'a str>) -> Result<Self, StoreError> {
        let stored_message: Option<String> = row.get("message_id")?;
        let by = match row.get::<Option<String>>("named_by")? {
            Some(text) => read_json(&text, "named_by")?,
            None => stored_message.as_ref().map(|message| all_by(message, stored)).unwrap_or_default(),
        };
        Ok(Self { by, message, stored_message })
    }

    /// Whether the request may set this detail. With a message it may if the message is newer than the last one that
    /// named the detail; `by` then records the message. Without a message it may if the detail is `missing`.
    fn names(&mut self, detail: &str, missing: bool) -> bool {
        let Some(message) = self.message else { return missing };
        let decides = self.by.get(detail).is_none_or(|last| is_newer(message, last));
        if decides {
            self.by.insert(detail.to_owned(), message.to_owned());
        }
        decides
    }

    fn after(&mut self, before: &Details, request: &TrackTopup) -> Details {
        let mut after = before.clone();
        let instruction = request.instruction.filter(|it| it.kind == InstructionKind::Correct);
        if let Some(named) = &request.customer {
            let mut customer = before.customer.clone().unwrap_or_default();
            let missing = before.customer.is_none();
            let fields = [&mut customer.name, &mut customer.email, &mut customer.phone];
            for ((stored, named), detail) in
                fields.into_iter().zip([&named.name, &named.email, &named.phone]).zip(CUSTOMER)
            {
                // A correction changes only the fields that it names; any other message clears those that it lacks.
                if (instruction.is_none() || named.is_some()) && self.names(detail, missing) {
                    *stored = named.clone().filter(|text| !text.reveal().is_empty());
                }
            }
            let locale = instruction.map_or(Some(named.locale), |correction| correction.locale);
            if let Some(locale) = locale
                && self.names("locale", missing)
            {
                customer.locale = locale;
            }
            after.customer = Some(customer);
        }
        if let Some(metadata) = &request.metadata
            && self.names(METADATA, before.metadata.is_none())
        {
            after.metadata = Some(metadata.clone());
        }
        if let Some(url) = &request.callback_url
            && self.names(CALLBACK_URL, before.callback_url.is_none())
        {
            after.callback_url = Some(url.clone()).filter(|url| !url.reveal().is_empty());
        }
        after
    }

    fn newest_message(&self) -> Option<&str> {
        match (self.message, self.stored_message.as_deref()) {
            (Some(message), Some(stored)) if !is_newer(message, stored) => Some(stored),
            (message, stored) => message.or(stored),
        }
    }
}

/// Attributes all details to one message, for an order of an older version, which stored only the order's last message.
fn all_by(message: &str, stored: &Details) -> NamedBy {
    let mut details = vec![TRACKED];
    details.extend(stored.customer.is_some().then_some(CUSTOMER).into_iter().flatten());
    details.extend(stored.metadata.is_some().then_some(METADATA));
    details.extend(stored.callback_url.is_some().then_some(CALLBACK_URL));
    details.into_iter().map(|detail| (detail.to_owned(), message.to_owned())).collect()
}

/// Whether the message at `position` is newer than the one at `last`; see [`TrackTopup::message_id`] for the form.
fn is_newer(position: &str, last: &str) -> bool {
    let read = |position: &str| {
        let (id, taken) = position.split_once('@').unwrap_or((position, ""));
        let (milliseconds, number) = id.split_once('-')?;
        let id = (milliseconds.parse::<u64>().ok()?, number.parse::<u64>().ok()?);
        Some((id, taken.parse::<u64>().ok()))
    };
    match (read(position), read(last)) {
        (Some((id, Some(taken))), Some((last, Some(last_taken))))
            if taken.abs_diff(last_taken) > IDS_AGREE_MS =>
        {
            // The newer message may have the lower id: Redis lost its stream, or its clock was moved back.
            if id == last { false } else { taken > last_taken }
        }
        (Some((id, _)), Some((last, _))) => id > last,
        _ => position != last,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_message_wins_even_if_the_ids_of_the_stream_went_back() {
        let (first, second) = ("1000-0@1000", "1000-1@1001");
        assert!(is_newer(second, first) && !is_newer(first, second) && !is_newer(first, first));
        // The newer message has the earlier intake time, because another worker's clock is slightly behind.
        assert!(is_newer("1000-2@990", second));
        // At `ahead` the clock of Redis was an hour ahead. Before `after` it was corrected, and Redis lost its data.
        let (ahead, after) = ("3601000-0@2000", "90000-0@90000");
        assert!(is_newer(after, ahead) && !is_newer(ahead, after));
        // An older version stored messages without intake time. Then the ids decide.
        assert!(is_newer("2000-0@2000", "1000-0") && !is_newer("1000-0", "2000-0@2000"));
        assert!(!is_newer("1000-0@99000", "1000-0@1000"), "the same message, put back");
    }
}
