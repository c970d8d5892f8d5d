//! The verdict of the demo: a comparison of provider, store and shop, order by order and event by event. The module
//! only compares; its caller collects the data. Every order that is not final in the store counts as lost. A problem
//! names an order by its id and must not show customer data.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::ledger::{Books, Entry};
use super::narrator::jobs;
use super::producer::Sent;
use super::shop::{Book, Delivery};

/// Maximum number of problems that are printed; further problems are only counted.
const MAX_TOLD: usize = 10;

/// The provider's state of one order.
pub(super) struct ProvidersWord {
    pub(super) status: String,
    pub(super) card_code: Option<String>,
    /// Number of `check-id` calls for the order.
    pub(super) calls: usize,
}

pub(super) struct Evidence<'a> {
    pub(super) sent: &'a [Sent],
    /// Keyed by `topupId`.
    pub(super) provider: &'a BTreeMap<String, ProvidersWord>,
    pub(super) books: &'a Books,
    pub(super) shop: &'a Book,
    /// Reasons of the rejected messages.
    pub(super) rejected: &'a [String],
    /// Number of dead letters, and of messages still in the inbox.
    pub(super) left_over: (usize, usize),
    /// Number of jobs that the killed worker held; `None` if no worker was killed.
    pub(super) killed_with: Option<usize>,
    /// Problems found during the run.
    pub(super) problems: Vec<String>,
    pub(super) took: Duration,
    /// Duration of the run in domain time; `took` is the same in real time.
    pub(super) domain: Duration,
}

/// The lines to print, and the problems found.
pub(super) struct Verdict {
    lines: Vec<String>,
    problems: Vec<String>,
}

impl Verdict {
    pub(super) fn new(mut evidence: Evidence<'_>) -> Self {
        let mut problems = std::mem::take(&mut evidence.problems);
        problems.extend(evidence.orders());
        problems.extend(evidence.events());
        problems.extend(evidence.rest());
        let mut lines = evidence.summary();
        if problems.is_empty() {
            lines.extend(NEXT.map(str::to_owned));
        } else {
            lines.push(String::new());
            lines.extend(problems.iter().take(MAX_TOLD).map(|problem| format!("problem: {problem}")));
            let more = problems.len().saturating_sub(MAX_TOLD);
            lines.extend((more > 0).then(|| format!("and {more} more problems")));
        }
        Self { lines, problems }
    }

    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }

    pub(super) fn problems(&self) -> &[String] {
        &self.problems
    }
}

const NEXT: [&str; 4] = [
    "",
    "What to do next:",
    "  hand over an order of your own, one Redis command in any language: see \"For producers\" in jobs/README.md",
    "  start a worker: topup-worker run --help   (settings are flags or environment variables)",
];

impl Evidence<'_> {
    fn settled(&self) -> usize {
        self.sent.iter().filter(|sent| self.outcome(&sent.topup_id).is_some()).count()
    }

    /// The order's status in the store, if it is final.
    fn outcome(&self, topup_id: &str) -> Option<&str> {
        let status = self.books.orders.get(topup_id)?.status.as_str();
        matches!(status, "FULFILLED" | "REFUNDED").then_some(status)
    }

    fn orders(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for Sent { topup_id: id, .. } in self.sent {
            let provider = self.provider.get(id).map_or("unknown", |word| word.status.as_str());
            match self.books.orders.get(id) {
                None => {
                    problems.push(format!("order {id} is missing in the store, {provider} at the provider"));
                }
                Some(Entry { status, .. }) if status != provider => {
                    problems.push(format!("order {id} is {status} in the store, {provider} at the provider"));
                }
                Some(_) if self.outcome(id).is_none() => {
                    problems.push(format!("order {id} is not final; the provider also reports {provider}"));
                }
                Some(_) => {}
            }
        }
        let sent: BTreeSet<&str> = self.sent.iter().map(|sent| sent.topup_id.as_str()).collect();
        let unknown = self.books.orders.keys().filter(|id| !sent.contains(id.as_str()));
        problems.extend(unknown.map(|id| format!("order {id} is in the store and was never sent")));
        problems
    }

    fn events(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut due = self.books.events.clone();
        for (id, entry) in &self.books.orders {
            let outcome = self.outcome(id).map(str::to_lowercase);
            let scheduled = entry.was_scheduled.then(|| "scheduled".to_owned());
            let delayed = entry.was_delayed.then(|| "delayed".to_owned());
            let outcomes = [outcome, scheduled, delayed].into_iter().flatten();
            due.extend(outcomes.map(|outcome| format!("evt_{id}_{outcome}")));
        }
        for id in &due {
            match self.shop.events.get(id) {
                None => problems.push(format!("event {id} never arrived")),
                Some(delivery) if delivery.taken == 0 => {
                    problems.push(format!("event {id} was answered with 503 and never accepted"));
                }
                Some(_) => {}
            }
        }
        for (id, delivery) in &self.shop.events {
            if !due.contains(id) {
                problems.push(format!("event {id} arrived and is not in the store"));
            }
            if !delivery.same_body {
                problems.push(format!("event {id} arrived with different bodies"));
            }
            problems.extend(self.content(id, delivery));
        }
        if self.shop.forged > 0 {
            problems.push(format!("{} requests had a wrong signature", self.shop.forged));
        }
        problems
    }

    /// Describes how the body of an event contradicts the event's id or the provider's card; `None` if they agree.
    fn content(&self, id: &str, delivery: &Delivery) -> Option<String> {
        let body: Value = match serde_json::from_slice(&delivery.body) {
            Ok(body) => body,
            Err(_) => return Some(format!("the body of event {id} is not JSON")),
        };
        let topup_id = body["data"]["topupId"].as_str().unwrap_or_default();
        let outcome = body["type"].as_str().and_then(|kind| kind.strip_prefix("topup.")).unwrap_or_default();
        if id != format!("evt_{topup_id}_{outcome}") {
            return Some(format!("the body of event {id} describes another event"));
        }
        let card = self.provider.get(topup_id).and_then(|word| word.card_code.as_deref());
        let expected = card.filter(|_| outcome == "fulfilled");
        (body["data"]["cardCode"].as_str() != expected)
            .then(|| format!("the card in event {id} is not the provider's"))
    }

    fn rest(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.rejected.len() != 1 {
            problems.push(format!("{} messages were rejected instead of one", self.rejected.len()));
        }
        let (dead_letters, inbox) = self.left_over;
        if dead_letters > 0 {
            problems.push(format!("{dead_letters} jobs are among the dead letters"));
        }
        if inbox > 0 {
            problems.push(format!("{inbox} messages are still in the inbox"));
        }
        if self.killed_with.is_none() {
            problems.push("no worker was killed".to_owned());
        }
        problems
    }

    fn summary(&self) -> Vec<String> {
        let lost = self.sent.len() - self.settled();
        let count = |status: &str| {
            let here = self.sent.iter().filter(|sent| self.outcome(&sent.topup_id) == Some(status)).count();
            let there = self.provider.values().filter(|word| word.status == status).count();
            format!("{here:>4} in the store, {there:>4} at the provider")
        };
        let events = self.shop.events.values();
        let deliveries: u32 = events.clone().map(|delivery| delivery.taken).sum();
        let distinct = self.shop.taken();
        let same = events
            .clone()
            .filter(|delivery| delivery.same_body)
            .map(|delivery| delivery.taken.saturating_sub(1));
        let repeats: u32 = same.sum();
        let turned_away: u32 = events.map(|delivery| delivery.turned_away).sum();
        let calls: usize = self.provider.values().map(|word| word.calls).sum();
        let killed = self.killed_with.map_or("none killed".to_owned(), |held| {
            format!("1 killed while it held {}; 1 started in its place", jobs(held))
        });
        let rejected = self.rejected.first().map_or("nothing", String::as_str);
        let (seconds, hours) = (self.took.as_secs(), self.domain.as_secs() / 3600);
        vec![
            String::new(),
            format!("After {seconds} seconds, in which {hours} hours passed for the orders:"),
            String::new(),
            format!("  orders sent      {:>4}", self.sent.len()),
            format!("  FULFILLED        {}", count("FULFILLED")),
            format!("  REFUNDED         {}", count("REFUNDED")),
            String::new(),
            format!(
                "  notifications    {deliveries:>4} delivered, {distinct} of them different, {repeats} repeated with the same body"
            ),
            format!("  sent again       {turned_away:>4} that the shop first answered with 503"),
            format!("  bad signatures   {:>4}", self.shop.forged),
            format!("  rejected         {:>4} message: {rejected}", self.rejected.len()),
            format!("  check-id calls   {calls:>4}"),
            format!("  workers          {:>4} at the start, {killed}", 2),
            String::new(),
            format!("lost: {lost}"),
        ]
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
