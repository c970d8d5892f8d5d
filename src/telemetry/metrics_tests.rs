use std::collections::{BTreeMap, BTreeSet};

use super::*;

const PAGES: [&str; 2] =
    [include_str!("../../docs/operations.md"), include_str!("../../docs/operations.fr.md")];

/// A state in which every series appears.
fn state() -> BudgetState {
    BudgetState {
        breaker: Breaker::HalfOpen,
        list: ListUse::Read,
        new_waiting: 7,
        backlog_waiting: 5_000,
        key: ApiKey::Secondary,
        tokens: vec![(ApiKey::Primary, 120), (ApiKey::Secondary, 30)],
    }
}

/// Sorts the series of each metric; the buckets of a histogram keep their order.
fn ordered(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    for block in lines.chunk_by_mut(|a, b| a.starts_with('#') == b.starts_with('#')) {
        block
            .sort_by_key(|line| labels(line).into_iter().filter(|(key, _)| *key != "le").collect::<Vec<_>>());
    }
    lines.join("\n")
}

fn labels(line: &str) -> Vec<(&str, &str)> {
    let inside = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let pairs = inside.map(|(inside, _)| inside.split(',')).into_iter().flatten();
    pairs.filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key, value.trim_matches('"'))).collect()
}

/// For each metric in a text, its type and the values of each label.
type Described = BTreeMap<String, (String, BTreeMap<String, BTreeSet<String>>)>;

fn described(text: &str) -> Described {
    let mut all = Described::new();
    let mut name = "";
    for line in text.lines() {
        if let Some((is, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            name = is;
            all.insert(name.to_owned(), (kind.to_owned(), BTreeMap::new()));
        } else if !line.starts_with('#') {
            for (key, value) in labels(line).into_iter().filter(|(key, _)| *key != "le") {
                let known = &mut all.get_mut(name).unwrap().1;
                known.entry(key.to_owned()).or_default().insert(value.to_owned());
            }
        }
    }
    all
}

#[test]
fn a_new_worker_reports_zero_for_every_label() {
    insta::assert_snapshot!(ordered(&Metrics::default().encode(None)));
}

#[test]
fn the_budget_is_reported_only_if_its_state_is_known() {
    let metrics = Metrics::default();
    let (with, without) = (metrics.encode(Some(&state())), metrics.encode(None));
    let gauges: String = with.split_inclusive('\n').skip(without.lines().count()).collect();
    insta::assert_snapshot!(ordered(&gauges));
    let one_key = BudgetState { key: ApiKey::Primary, tokens: vec![(ApiKey::Primary, 9)], ..state() };
    assert!(!metrics.encode(Some(&one_key)).contains("secondary"), "there is no such key");
}

#[test]
fn events_are_counted_under_their_labels() {
    let metrics = Metrics::default();
    metrics.requested(RequestKind::CheckId, None);
    metrics.requested(RequestKind::CheckId, Some(&ApiError::NotFound(crate::provider::Answer::default())));
    metrics.clone().requested(RequestKind::List, Some(&ApiError::TimedOut));
    metrics.waited(JobName::PollTopup, Duration::from_millis(2_500));
    metrics.status_changed(OrderStatus::Handling, OrderStatus::Scheduled, 4);
    // `topup_order_requests` ignores this change: rechecks of a SCHEDULED order are not part of fast polling.
    metrics.status_changed(OrderStatus::Scheduled, OrderStatus::Fulfilled, 4);
    let text = metrics.encode(None);
    for line in [
        r#"topup_api_requests_total{kind="check-id",answer="usable"} 2"#,
        r#"topup_api_requests_total{kind="list",answer="failed"} 1"#,
        r#"topup_api_wait_seconds_sum{queue="poll-topup"} 2.5"#,
        r#"topup_api_wait_seconds_bucket{queue="poll-topup",le="1"} 0"#,
        r#"topup_api_wait_seconds_bucket{queue="poll-topup",le="3"} 1"#,
        "topup_order_requests_sum 4.0",
        "topup_order_requests_count 1",
        r#"topup_order_status_changes_total{status="SCHEDULED"} 1"#,
        r#"topup_order_status_changes_total{status="FULFILLED"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nin\n{text}");
    }
}

/// The text of a documentation page between the comments `<!-- name -->` and `<!-- /name -->`.
fn part<'a>(page: &'a str, name: &str) -> &'a str {
    let rest = page.split(&format!("<!-- {name} -->")).nth(1).unwrap();
    rest.split(&format!("<!-- /{name} -->")).next().unwrap()
}

#[test]
fn the_docs_name_every_metric_its_type_and_its_labels() {
    let known = described(&Metrics::default().encode(Some(&state())));
    for page in PAGES {
        let rows = part(page, "metrics").lines().filter(|line| line.starts_with("| `"));
        let documented: Described = rows
            .map(|row| {
                let cell = |n: usize| row.split('|').nth(n).unwrap().trim().replace('`', "");
                let labels =
                    cell(3).split("; ").filter_map(|label| label.split_once(": ")).map(read_label).collect();
                (cell(1), (cell(2), labels))
            })
            .collect();
        assert_eq!(documented, known);
    }
}

fn read_label((key, values): (&str, &str)) -> (String, BTreeSet<String>) {
    (key.trim().to_owned(), values.split(", ").map(|value| value.trim().to_owned()).collect())
}

#[test]
fn the_alerts_of_the_docs_use_existing_series() {
    let text = Metrics::default().encode(Some(&state()));
    for page in PAGES {
        let alerts = part(page, "alerts");
        let names: BTreeSet<&str> = alerts
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("topup_"))
            .collect();
        assert!(names.len() >= 3, "{names:?}");
        for name in names {
            let is_series =
                |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            assert!(text.lines().any(is_series), "{name} is no series");
        }
        for selector in alerts.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            for (key, values) in selector.split(',').filter_map(|pair| pair.split_once('=')) {
                for value in values.trim_matches(['~', '"']).split('|') {
                    assert!(text.contains(&format!("{key}=\"{value}\"")), "{selector}");
                }
            }
        }
    }
}
