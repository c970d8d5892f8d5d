//! The search for orders, the newest first: sorted by id, which begins with the time and never changes.
//!
//! Each criterion has its own index, so a statement contains only the criteria that are set.

use topup_jobs::{Secret, TopupId};

use super::database::Database;
use super::orders::{COLUMNS, read};
use super::statement::{Statement, Value, sql_built};
use crate::orders::{Found, Search, StoreError, contact};

/// SQL condition: the order is neither final nor tracked.
const LEFT: &str = "next_check_at IS NULL AND status NOT IN ('FULFILLED', 'REFUNDED')";
/// SQL condition that, together with [`LEFT`], selects the dead-lettered orders.
const DEAD_LETTER: &str = "cancelled_at IS NULL AND NOT discarded";
/// SQL expression: the reason of a dead-lettered order. An earlier version stored the reason only in the history.
const REASON: &str =
    "coalesce(given_up, (SELECT result FROM order_events notification WHERE notification.topup_id = internet_orders.topup_id
     AND kind = 'order' AND result IS NOT NULL ORDER BY id DESC LIMIT 1))";
/// Selects the ids of orders with a dead-lettered notification.
const UNDELIVERED: &str = "SELECT topup_id FROM notifications WHERE status IN ('failed', 'refused')";
/// Selects the ids of orders with an outcome that no channel could deliver.
const NO_CHANNEL: &str =
    "SELECT topup_id FROM events WHERE outcome = 'undelivered' AND NOT closed AND about LIKE '%:none'";

#[derive(Default)]
struct Conditions {
    all: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    fn of(search: &Search, after: Option<&TopupId>) -> Self {
        let mut conditions = Self::default();
        if let Some(after) = after {
            conditions.add("topup_id < ?", [after.as_str().into()]);
        }
        if let Some(reference) = &search.reference {
            conditions.add("topup_ref = ?", [reference.as_str().into()]);
        }
        if let Some(number) = &search.number {
            conditions.add("number IN (?, ?, ?)", contact::numbers(number.reveal()).map(Value::from));
        }
        let mut contact = |condition, text: &Option<Secret>, form: fn(&str) -> String| {
            if let Some(text) = text {
                conditions.add(condition, [form(text.reveal()).into()]);
            }
        };
        contact("contact_phone = ?", &search.phone, contact::phone);
        contact("contact_email = ?", &search.email, contact::email);
        if !search.statuses.is_empty() {
            let places = vec!["?"; search.statuses.len()].join(", ");
            let statuses = search.statuses.iter().map(|status| status.as_str().to_lowercase().into());
            // `lower(status)`, because the index is on this expression.
            conditions.add(&format!("lower(status) IN ({places})"), statuses);
        }
        if let Some(since) = search.since {
            conditions.add("tracked_at >= ?", [since.into()]);
        }
        if let Some(until) = search.until {
            conditions.add("tracked_at < ?", [until.into()]);
        }
        if search.cancelled {
            conditions.add(&format!("{LEFT} AND cancelled_at IS NOT NULL"), []);
        }
        if search.undelivered {
            conditions.add(&format!("topup_id IN ({UNDELIVERED} UNION ALL {NO_CHANNEL})"), []);
        }
        if let Some(reason) = &search.dead_letter {
            conditions.add_dead_letter(reason);
        }
        conditions
    }

    /// Adds a condition with a value for each `?` in it.
    fn add(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        let mut parts = condition.split('?');
        let mut numbered = parts.next().unwrap_or_default().to_owned();
        for (part, value) in parts.zip(values) {
            self.values.push(value);
            numbered = format!("{numbered}${}{part}", self.values.len());
        }
        self.all.push(numbered);
    }

    /// Requires a dead-lettered order or notification whose reason starts with `reason`, which may be empty.
    fn add_dead_letter(&mut self, reason: &str) {
        let given_up = format!("SELECT topup_id FROM internet_orders WHERE {LEFT} AND {DEAD_LETTER}");
        if reason.is_empty() {
            return self.add(&format!("topup_id IN ({given_up} UNION ALL {UNDELIVERED})"), []);
        }
        let notification = "(CASE status WHEN 'refused' THEN 'refused: ' ELSE 'undelivered: ' END) || coalesce(last_error, '')";
        let condition = format!(
            r"topup_id IN ({given_up} AND {REASON} LIKE ? ESCAPE '\'
                 UNION ALL {UNDELIVERED} AND ({notification} LIKE ? ESCAPE '\' OR last_error LIKE ? ESCAPE '\'))"
        );
        let escaped = reason.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
        self.add(&condition, [(); 3].map(|()| format!("{escaped}%").into()));
    }

    /// Replaces `{conditions}` and `{last}` in `text`, and binds the values.
    fn statement(mut self, text: &str, last: Option<Value>) -> Statement {
        let conditions = if self.all.is_empty() { "1 = 1".to_owned() } else { self.all.join(" AND ") };
        let mut text = text.replace("{conditions}", &conditions);
        if let Some(last) = last {
            self.values.push(last);
            text = text.replace("{last}", &format!("${}", self.values.len()));
        }
        self.values.into_iter().fold(sql_built(text), Statement::bind)
    }
}

/// The statement of a search. The subqueries for reason and counts run only for the rows of the result.
pub(super) fn statement(search: &Search, after: Option<&TopupId>, most: u32) -> Statement {
    let text = format!(
        "SELECT {COLUMNS}, {REASON} AS reason,
             (SELECT count(*) FROM notifications notification WHERE notification.topup_id = internet_orders.topup_id
                 AND status IN ('failed', 'refused'))
             + (SELECT count(*) FROM events open WHERE open.topup_id = internet_orders.topup_id
                 AND outcome = 'undelivered' AND NOT closed AND about LIKE '%:none') AS undelivered
         FROM internet_orders WHERE topup_id IN (
             SELECT topup_id FROM internet_orders WHERE {{conditions}} ORDER BY topup_id DESC LIMIT {{last}})
         ORDER BY topup_id DESC"
    );
    Conditions::of(search, after).statement(&text, Some(most.into()))
}

pub(super) async fn search(
    database: &Database,
    search: &Search,
    after: Option<&TopupId>,
    most: u32,
) -> Result<Vec<Found>, StoreError> {
    let mut all = Vec::new();
    for row in database.fetch(statement(search, after, most)).await? {
        let order = read(&row)?;
        let tracking = &order.tracking;
        let is_left = tracking.next_check_at.is_none() && !tracking.status.is_final();
        let is_dead_letter = is_left && order.cancelled_at.is_none() && !order.discarded;
        let given_up = row.get::<Option<String>>("reason")?.filter(|_| is_dead_letter);
        all.push(Found { given_up, undelivered: row.count("undelivered")?, order });
    }
    Ok(all)
}

pub(super) async fn count(database: &Database, search: &Search) -> Result<u64, StoreError> {
    let text = "SELECT count(*) AS orders FROM internet_orders WHERE {conditions}";
    let row = database.fetch_optional(Conditions::of(search, None).statement(text, None)).await?;
    let orders: i64 = row.map(|row| row.get("orders")).transpose()?.unwrap_or_default();
    Ok(orders.unsigned_abs())
}

pub(super) async fn explain(
    database: &Database,
    search: &Search,
    most: u32,
) -> Result<Vec<String>, StoreError> {
    database.explain(statement(search, None, most)).await
}
