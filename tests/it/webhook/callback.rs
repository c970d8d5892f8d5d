//! Orders with a callback URL of their own.

use std::time::Duration;

use topup_jobs::{OrderStatus, Outcome};
use topup_worker::simulator::Script;

use super::receiver::{Answer, Receiver};
use super::{callback_secret, enqueue_at, notification};
use crate::support::{Bed, SECRET, until};

/// The day until a recheck passes in six seconds.
const SCALE: f64 = 4.0 * 3600.0;

#[tokio::test]
async fn a_callback_url_replaces_the_webhook_and_appears_at_no_proxy_and_in_no_log() {
    let mut bed = Bed::new(SCALE).await;
    let proxy = Receiver::start(|_| Answer::status(502)).await;
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        bed.set(name, proxy.url.clone());
    }
    bed.set("CALLBACK_ALLOWED_HOSTS", "shop.example.dz 127.0.0.1");
    bed.set("RUST_LOG", "trace");
    let receiver = Receiver::start(|_| Answer::status(204)).await;
    let (own, other) =
        (bed.order(Script::queued_forever()), bed.order(Script::refunded_after(Duration::ZERO)));
    let worker = bed.worker().await;
    enqueue_at(&bed, &own, &receiver.url).await;
    bed.enqueue([&other]).await;
    bed.delivered(&other, "refunded").await;
    until("the first outcome is delivered", async || (receiver.requests().len() == 1).then_some(())).await;
    bed.simulator.set_script(&own, Script::fulfilled_after(Duration::ZERO));
    until("both outcomes are delivered", async || (receiver.requests().len() == 2).then_some(())).await;
    let ids: Vec<String> = receiver.requests().iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(ids, [format!("evt_{own}_scheduled"), format!("evt_{own}_fulfilled")]);
    let secret = callback_secret(&bed, "127.0.0.1").await;
    assert!(receiver.requests().iter().all(|one| one.is_signed_with(&secret) && !one.is_signed_with(SECRET)));
    bed.idle().await;
    assert_eq!(bed.sink.received().len(), 1, "the merchant's endpoint receives only the other order");
    assert!(notification(&bed, &own, Outcome::Fulfilled, "webhook").await.is_none());
    assert_eq!(proxy.requests().len(), 0);
    let log = [worker.log(), bed.shown(&own)].concat();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is verbose");
    assert_eq!(log.lines().find(|line| line.contains("token-of-mine")), None);
}

#[tokio::test]
async fn an_order_whose_host_is_no_longer_allowed_is_sent_to_the_merchants_endpoint() {
    let mut bed = Bed::new(SCALE).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    let receiver = Receiver::start(|_| Answer::status(204)).await;
    let id = bed.order(Script::queued_forever());
    enqueue_at(&bed, &id, &receiver.url).await;
    let mut worker = bed.worker().await;
    until("the first outcome is delivered", async || (receiver.requests().len() == 1).then_some(())).await;
    assert!(worker.stop().await.success());
    bed.set("CALLBACK_ALLOWED_HOSTS", "");
    let _worker = bed.worker().await;
    bed.simulator.set_script(&id, Script::fulfilled_after(Duration::ZERO));
    bed.delivered(&id, "fulfilled").await;
    bed.stored(std::slice::from_ref(&id), OrderStatus::Fulfilled).await;
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn each_callback_host_has_a_secret_of_its_own() {
    const OWN: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let mut bed = Bed::new(SCALE).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1 localhost");
    let receiver = Receiver::start(|_| Answer::status(204)).await;
    let by_name = receiver.url.replace("127.0.0.1", "LOCALHOST");
    let secrets = [callback_secret(&bed, "127.0.0.1").await, callback_secret(&bed, "Localhost.").await];
    assert_ne!(secrets[0], secrets[1]);
    let orders = [(); 3].map(|()| bed.order(Script::fulfilled_after(Duration::ZERO)));
    let mut worker = bed.worker().await;
    enqueue_at(&bed, &orders[0], &receiver.url).await;
    enqueue_at(&bed, &orders[1], &by_name).await;
    let request = async |order: &String| {
        let id = format!("evt_{order}_fulfilled");
        let requests = || receiver.requests();
        until(&id, async || requests().into_iter().find(|one| one.id() == id)).await
    };
    for (n, order) in orders[..2].iter().enumerate() {
        let request = request(order).await;
        assert!(request.is_signed_with(&secrets[n]));
        assert!(!request.is_signed_with(&secrets[1 - n]), "the other shop could have signed it");
        assert!(!request.is_signed_with(SECRET), "the merchant's secret signs no callback");
    }
    bed.idle().await;
    assert!(worker.stop().await.success());

    // During a rotation of the merchant's secret, and for a host in CALLBACK_SECRETS.
    bed.set("WEBHOOK_SECRET", format!("{OWN} {SECRET}"));
    let both = callback_secret(&bed, "127.0.0.1").await;
    assert_eq!(both.lines().count(), 2);
    assert_eq!(both.lines().last(), Some(&*secrets[0]));
    bed.set("CALLBACK_SECRETS", format!("localhost={OWN}"));
    assert_eq!(callback_secret(&bed, "localhost").await, OWN);
    let _worker = bed.worker().await;
    enqueue_at(&bed, &orders[2], &receiver.url).await;
    let request = request(&orders[2]).await;
    assert!(both.lines().all(|secret| request.is_signed_with(secret)));
    for (host, words) in [
        ("shop.example", "does not name it"),
        ("https://localhost", "without https://"),
        ("localhost:1", "port"),
    ] {
        let output = bed.program_async(&["callback-secret", host]).await;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}
