use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, header};
use futures_util::future::join_all;
use tempfile::TempDir;
use topup_jobs::{
    Card, Customer, JobName, NotifyCustomer, OrderStatus, Outcome, ProviderOrder, Timestamp, TopupId,
    TopupStatus, TrackTopup, Tracking,
};
use tower::ServiceExt;

use super::*;
use crate::clock::ManualClock;
use crate::orders::{CardCipher, Change, Occurrence, open};

const CODE: &str = "<987654321098>";
const LIFETIME: i64 = 3_600;

struct Shop {
    page: RevealPage,
    clock: Arc<ManualClock>,
    store: Arc<dyn OrderStore>,
    topup_id: TopupId,
    token: String,
    _folder: TempDir,
}

/// A shop with one fulfilled order and a link to its card.
async fn shop(locale: Locale) -> Shop {
    let folder = tempfile::tempdir().unwrap();
    let cipher = CardCipher::new(&CardCipher::generate_key()).unwrap();
    let url = format!("sqlite://{}", folder.path().join("orders.db").display());
    let store: Arc<dyn OrderStore> = Arc::new(open(&url, cipher).await.unwrap());
    let clock = Arc::new(ManualClock::at(Timestamp::from_timestamp(1_800_000_000, 0).unwrap()));
    let topup_id: TopupId = "6901616fe9e88196b4eb64b2".parse().unwrap();
    let now = clock.now();
    let mut request = TrackTopup::new(topup_id.clone());
    request.customer = Some(Customer { locale, ..Customer::default() });
    let order = store.track(&request, now).await.unwrap();
    let card = Card {
        card_code: Secret::new(CODE),
        num_trans: Some("AT-2231".to_owned()),
        date_traitement: Some("2026-11-24 10:00".to_owned()),
    };
    let seen = ProviderOrder {
        number: Some(Secret::new("036901234")),
        topup_amount: Some(1000),
        card: Some(card),
        ..ProviderOrder::new(TopupStatus::Fulfilled)
    };
    let record = Tracking {
        status: OrderStatus::Fulfilled,
        fulfilled_at: Some(now),
        next_check_at: None,
        ..order.tracking.clone()
    };
    let change = Change {
        job: JobName::PollTopup,
        at: now,
        order: &order,
        record: &record,
        seen: Some(&seen),
        given_up: None,
        event: None,
    };
    store.apply(change).await.unwrap();
    let notification = NotifyCustomer {
        topup_id: topup_id.clone(),
        outcome: Outcome::Fulfilled,
        incident: topup_jobs::Incident::FIRST,
        channel: "email".to_owned(),
    };
    let expires_at = now + Duration::from_secs(LIFETIME.unsigned_abs());
    let token = store.reveal_token(&notification, now, expires_at).await.unwrap();
    let page = RevealPage::new(Arc::clone(&store), Arc::clone(&clock) as Arc<dyn Clock>);
    Shop {
        page,
        clock,
        store,
        topup_id,
        token: secrecy::ExposeSecret::expose_secret(&token).to_owned(),
        _folder: folder,
    }
}

struct Answered {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Shop {
    async fn ask(&self, method: Method, path: &str, form: &str) -> Answered {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let request = request.body(Body::from(form.to_owned())).unwrap();
        let response = self.page.clone().router().oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = to_bytes(response.into_body(), 100_000).await.unwrap();
        Answered { status, headers, text: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn open(&self) -> Answered {
        self.ask(Method::GET, &format!("/r/{}", self.token), "").await
    }

    async fn answer(&self, digits: &str) -> Answered {
        self.ask(Method::POST, &format!("/r/{}", self.token), &format!("digits={digits}")).await
    }
}

fn shows_the_card(answered: &Answered) -> bool {
    answered.text.contains("&lt;987654321098&gt;")
}

#[tokio::test]
async fn get_shows_a_form_and_the_right_digits_show_the_card_once() {
    let shop = shop(Locale::Fr).await;
    for _ in 0..10 {
        let opened = shop.open().await;
        assert_eq!(opened.status, 200);
        assert!(opened.text.contains("<form") && !shows_the_card(&opened));
    }
    let shown = shop.answer("1234").await;
    assert_eq!(shown.status, 200);
    assert!(shows_the_card(&shown) && shown.text.contains("AT-2231"), "{}", shown.text);
    assert!(!shown.text.contains(CODE), "it is escaped");
    for again in [shop.answer("1234").await, shop.open().await] {
        assert_eq!(again.status, 410);
        assert!(!shows_the_card(&again) && again.text.contains("déjà été affichée"), "{}", again.text);
    }
}

#[tokio::test]
async fn five_wrong_answers_close_the_link_for_good() {
    let shop = shop(Locale::En).await;
    for left in (0..MAX_TRIES).rev() {
        let wrong = shop.answer("0000").await;
        if left > 0 {
            assert_eq!(wrong.status, 403);
            assert!(wrong.text.contains(&format!("<bdi>{left}</bdi>")), "{}", wrong.text);
        }
    }
    for closed in [shop.answer("1234").await, shop.open().await] {
        assert_eq!(closed.status, 410);
        assert!(closed.text.contains("Too many tries") && !shows_the_card(&closed));
    }
}

#[tokio::test]
async fn a_link_expires() {
    let shop = shop(Locale::En).await;
    shop.clock.advance(LIFETIME - 1);
    assert_eq!(shop.open().await.status, 200);
    shop.clock.advance(1);
    for expired in [shop.open().await, shop.answer("1234").await] {
        assert_eq!(expired.status, 410);
        assert!(expired.text.contains("expired") && !shows_the_card(&expired));
    }
}

#[tokio::test]
async fn only_one_of_several_concurrent_right_answers_gets_the_card() {
    let shop = shop(Locale::En).await;
    let answers = join_all((0..4).map(|_| shop.answer("1234"))).await;
    assert_eq!(answers.iter().filter(|answered| shows_the_card(answered)).count(), 1);
}

#[tokio::test]
async fn unknown_links_and_long_forms_open_nothing() {
    let shop = shop(Locale::En).await;
    let altered = format!("/r/{}x", shop.token);
    for path in [&altered, "/r/", "/r/..%2f", "/", "/favicon.ico"] {
        let answered = shop.ask(Method::GET, path, "").await;
        assert_eq!(answered.status, 404, "{path}");
        assert_eq!(shop.ask(Method::POST, path, "digits=1234").await.status, 404, "{path}");
    }
    let long = "9".repeat(MAX_FORM);
    assert_eq!(shop.answer(&long).await.status, 413);
    assert!(shows_the_card(&shop.answer("1234").await), "none of these requests counted as a try");
}

#[tokio::test]
async fn a_link_works_under_every_path_prefix_and_with_trailing_punctuation() {
    let shop = shop(Locale::En).await;
    let under = |before: &str, after: &str| format!("{before}/r/{}{after}", shop.token);
    for path in [
        under("", ""),
        under("", "/"),
        under("/cards", ""),
        under("/a/b", "/"),
        under("/", ""),
        under("/r", ""),
        under("/caf%C3%A9", "?utm=mail"),
    ] {
        let opened = shop.ask(Method::GET, &path, "").await;
        // A form without `action` is posted to the path of the page, so the form works under every prefix.
        assert!(
            opened.status == 200 && opened.text.contains("<form method=\"post\">"),
            "{path}: {}",
            opened.text
        );
    }
    for path in [under("", "/"), under("/a/b", "")] {
        assert_eq!(shop.ask(Method::POST, &path, "digits=0").await.status, 403, "{path}");
    }
    for behind in [".", ",", ")", "%29.", "%20", "/.", "%22", "%E2%80%8F", "%C2%BB", "..."] {
        let opened = shop.ask(Method::GET, &under("", behind), "").await;
        assert_eq!(opened.status, 200, "{behind}");
    }
    for path in [
        under("/x", "/y"),
        under("", "%41"),
        under("", ".html"),
        format!("/xr/{}", shop.token),
        format!("/{}", shop.token),
    ] {
        assert_eq!(shop.ask(Method::GET, &path, "").await.status, 404, "{path}");
    }
    assert_eq!(shop.ask(Method::DELETE, &under("/cards", ""), "").await.status, 405);
    assert!(shows_the_card(&shop.ask(Method::POST, &under("/cards", ""), "digits=1234").await));
}

#[tokio::test]
async fn digits_may_be_arabic() {
    let shop = shop(Locale::Ar).await;
    let shown = shop.answer("%D9%A1%D9%A2%D9%A3+%D9%A4").await;
    assert!(shows_the_card(&shown), "{}", shown.text);
}

#[tokio::test]
async fn every_try_is_in_the_history_and_the_card_is_not() {
    let shop = shop(Locale::En).await;
    shop.answer("0000").await;
    shop.answer("1234").await;
    shop.answer("1234").await;
    let history = shop.store.history(&shop.topup_id).await.unwrap();
    let tries = history.iter().filter_map(|entry| match &entry.what {
        Occurrence::Asked { channel, result, .. } => Some((channel.as_str(), result.as_str())),
        _ => None,
    });
    let tries: Vec<_> = tries.collect();
    assert_eq!(tries, [("email", "wrong"), ("email", "shown"), ("email", "already-shown")]);
    assert!(!format!("{history:?}").contains("987654321098"));
}

#[tokio::test]
async fn headers_forbid_storing_framing_indexing_and_referrers() {
    let shop = shop(Locale::En).await;
    for answered in [shop.open().await, shop.answer("1234").await, shop.ask(Method::GET, "/", "").await] {
        let header = |name: &str| answered.headers[name].to_str().unwrap().to_owned();
        assert_eq!(header("cache-control"), "no-store");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert!(header("x-robots-tag").contains("noindex"));
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert!(answered.text.contains(&format!("<style nonce=\"{nonce}\">")));
        assert!(!answered.text.contains("<script") && !answered.text.contains("http"));
        assert!(!answered.headers.contains_key("set-cookie"));
    }
}

#[test]
fn every_view_can_be_rendered_in_every_language() {
    let page = Page::new();
    let card = Card { card_code: Secret::new("1"), num_trans: None, date_traitement: None };
    for locale in [Locale::Fr, Locale::Ar, Locale::En] {
        for view in [
            View::Ask { left: None },
            View::Ask { left: Some(2) },
            View::Card(card.clone()),
            View::AlreadyShown,
            View::Spent,
            View::Expired,
            View::Unknown,
            View::Trouble,
        ] {
            let html = page.render(locale, &view, "n");
            let dir = if locale == Locale::Ar { "rtl" } else { "ltr" };
            assert!(html.contains(&format!("dir=\"{dir}\">")), "{html}");
            assert!(html.matches("<p").count() >= 1, "{html}");
        }
    }
}

#[test]
fn an_order_without_a_usable_number_gets_no_link() {
    let order = |number: Option<&str>| {
        let topup_id = "6901616fe9e88196b4eb64b2".parse().unwrap();
        let number = number.map(Secret::new);
        Order { number, ..Order::new(topup_id, Timestamp::UNIX_EPOCH) }
    };
    for number in [
        "036901234",
        "036 90 12 34",
        "036-90-12-34",
        "\u{202a}036901234\u{202c}",
        "+213 (0) 36901234",
        "٠٣٦٩٠١٢٣٤",
    ] {
        assert!(can_ask(&order(Some(number))), "{number:?}");
    }
    for number in [None, Some("123"), Some("1 2 3"), Some("03690x234"), Some("é9")] {
        assert!(!can_ask(&order(number)), "{number:?}");
    }
}

#[test]
fn the_last_digits_or_the_whole_number_in_any_notation_are_right() {
    for (typed, number) in [
        ("1234", "036901234"),
        ("901234", "036901234"),
        ("036901234", "036901234"),
        ("21336901234", "036901234"),
        ("0021336901234", "036901234"),
        ("036901234", "21336901234"),
        ("36901234", "0021336901234"),
        ("0661223344", "213661223344"),
    ] {
        assert!(is_right(typed, number), "{typed} of {number}");
    }
    for (typed, number) in [
        ("", "036901234"),
        ("234", "036901234"),
        ("0234", "036901234"),
        ("0369", "036901234"),
        ("136901234", "036901234"),
        ("213", "21321321"),
        ("0000", "036901234"),
    ] {
        assert!(!is_right(typed, number), "{typed} of {number}");
    }
}
