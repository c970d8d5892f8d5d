//! Tests that the verdict of the demo reports each failure. Each test starts from a good run and breaks one thing.

use axum::body::Bytes;
use serde_json::json;

use super::*;

struct Run {
    sent: Vec<Sent>,
    provider: BTreeMap<String, ProvidersWord>,
    books: Books,
    shop: Book,
    rejected: Vec<String>,
    dead_letters: usize,
    killed_with: Option<usize>,
}

impl Run {
    /// A run without problems: one order was scheduled and then fulfilled, another was refunded.
    fn good() -> Self {
        let mut run = Self {
            sent: Vec::new(),
            provider: BTreeMap::new(),
            books: Books { orders: BTreeMap::new(), events: BTreeSet::new() },
            shop: Book::default(),
            rejected: vec!["it is not JSON".to_owned()],
            dead_letters: 0,
            killed_with: Some(2),
        };
        run.order("a", "FULFILLED", true);
        run.order("b", "REFUNDED", false);
        run
    }

    fn order(&mut self, id: &str, status: &str, was_scheduled: bool) {
        self.sent.push(Sent { topup_id: id.to_owned(), reference: String::new() });
        let word =
            ProvidersWord { status: status.to_owned(), card_code: Some(format!("card-{id}")), calls: 3 };
        self.provider.insert(id.to_owned(), word);
        let entry = Entry { status: status.to_owned(), was_scheduled, was_delayed: false };
        self.books.orders.insert(id.to_owned(), entry);
        self.event(id, &status.to_lowercase());
        if was_scheduled {
            self.event(id, "scheduled");
        }
    }

    fn event(&mut self, id: &str, outcome: &str) {
        let card = (outcome == "fulfilled").then(|| format!("card-{id}"));
        let body = json!({ "type": format!("topup.{outcome}"), "data": { "topupId": id, "cardCode": card } });
        let delivery =
            Delivery { body: Bytes::from(body.to_string()), same_body: true, taken: 1, turned_away: 0 };
        self.books.events.insert(format!("evt_{id}_{outcome}"));
        self.shop.events.insert(format!("evt_{id}_{outcome}"), delivery);
    }

    fn delivery(&mut self, id: &str) -> &mut Delivery {
        self.shop.events.get_mut(id).unwrap()
    }

    fn verdict(&self) -> Verdict {
        Verdict::new(Evidence {
            sent: &self.sent,
            provider: &self.provider,
            books: &self.books,
            shop: &self.shop,
            rejected: &self.rejected,
            left_over: (self.dead_letters, 0),
            killed_with: self.killed_with,
            problems: Vec::new(),
            took: Duration::from_secs(49),
            domain: Duration::from_hours(49),
        })
    }
}

#[test]
fn a_good_run_has_no_problem_and_loses_nothing() {
    let verdict = Run::good().verdict();
    assert_eq!(verdict.problems(), Vec::<String>::new());
    assert!(verdict.lines().iter().any(|line| line == "lost: 0"));
    let shown = verdict.lines().join("\n");
    assert!(!shown.contains("card-"), "{shown}");
}

#[test]
fn a_missing_or_unfinished_order_is_lost() {
    let mut run = Run::good();
    run.books.orders.remove("a");
    run.books.orders.get_mut("b").unwrap().status = "HANDLING".to_owned();
    let verdict = run.verdict();
    assert!(verdict.lines().iter().any(|line| line == "lost: 2"), "{:?}", verdict.lines());
    assert!(verdict.problems().len() >= 2);
}

#[test]
fn each_deviation_from_a_good_run_is_a_problem() {
    type Break = fn(&mut Run);
    let broken: [(&str, Break); 12] = [
        ("REFUNDED at the provider", |run| {
            run.provider.get_mut("a").unwrap().status = "REFUNDED".to_owned();
        }),
        ("never sent", |run| drop(run.sent.pop())),
        ("evt_a_fulfilled never arrived", |run| drop(run.shop.events.remove("evt_a_fulfilled"))),
        ("evt_a_scheduled never arrived", |run| {
            run.shop.events.remove("evt_a_scheduled");
            run.books.events.remove("evt_a_scheduled");
        }),
        ("evt_b_refunded was answered with 503", |run| run.delivery("evt_b_refunded").taken = 0),
        ("with different bodies", |run| run.delivery("evt_b_refunded").same_body = false),
        ("is not the provider's", |run| {
            run.provider.get_mut("a").unwrap().card_code = Some("another".to_owned());
        }),
        ("describes another event", |run| {
            run.delivery("evt_b_refunded").body =
                Bytes::from(r#"{"type":"topup.refunded","data":{"topupId":"a"}}"#);
        }),
        ("1 requests had a wrong signature", |run| run.shop.forged = 1),
        ("instead of one", |run| run.rejected.clear()),
        ("dead letters", |run| run.dead_letters = 1),
        ("no worker was killed", |run| run.killed_with = None),
    ];
    for (words, spoil) in broken {
        let mut run = Run::good();
        spoil(&mut run);
        let problems = run.verdict().problems().join("\n");
        assert!(problems.contains(words), "{words}: {problems}");
    }
}
