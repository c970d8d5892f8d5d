//! Rejected messages are replayed into the inbox once the reason for the rejection is fixed.

use std::time::Duration;

use topup_worker::orders::OrderStore;
use topup_worker::simulator::Script;

use super::enqueue_at;
use super::receiver::{Answer, Receiver};
use crate::support::{Bed, until};

fn output(bed: &Bed, args: &[&str]) -> String {
    let output = bed.program(&[&["rejected"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The first word of each line.
fn ids(shown: &str) -> Vec<&str> {
    shown.lines().filter_map(|line| line.split("  ").next()).collect()
}

#[tokio::test]
async fn rejected_messages_are_listed_without_their_values_replayed_and_discarded() {
    let mut bed = Bed::new(600.0).await;
    let receiver = Receiver::start(|_| Answer::status(204)).await;
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let mut worker = bed.worker().await;
    enqueue_at(&bed, &id, &receiver.url).await;
    bed.message(&[(b"name", b"0661998877"), (b"data", b"Zohra Benkaddour")]).await;
    let many: Vec<(Vec<u8>, Vec<u8>)> =
        (0..2_000).map(|n| (format!("f{n}").into_bytes(), vec![b'v'])).collect();
    bed.message(&many.iter().map(|(name, value)| (&name[..], &value[..])).collect::<Vec<_>>()).await;
    until("all three are rejected", async || {
        (bed.redis::<usize>(&["XLEN", "{topup}:rejected"]).await == 3).then_some(())
    })
    .await;
    let shown = output(&bed, &[]);
    assert_eq!(shown, output(&bed, &["list"]));
    assert!(
        shown.contains("\"data.callbackUrl\" is not accepted here: CALLBACK_ALLOWED_HOSTS is not set"),
        "{shown}"
    );
    for word in ["0661998877", "Zohra", "token-of-mine", &receiver.url] {
        assert!(!shown.contains(word), "{word} is shown: {shown}");
    }
    let ids = ids(&shown);
    assert_eq!(ids.len(), 3);

    // The setting is not fixed yet, so the message is rejected again, with the fields that were sent and no others.
    assert!(output(&bed, &["replay", ids[0]]).contains("is in the inbox as "));
    until("the message is rejected again", async || {
        let listed = output(&bed, &[]);
        let listed = self::ids(&listed);
        (listed.len() == 3 && !listed.contains(&ids[0])).then_some(())
    })
    .await;
    assert!(worker.stop().await.success());
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    let _worker = bed.worker().await;
    let replayed = output(&bed, &["replay", "--all"]);
    assert_eq!(replayed.matches("is in the inbox as ").count(), 2, "{replayed}");
    assert!(replayed.contains(&format!("{}  not replayed: it has too many fields", ids[2])), "{replayed}");
    until("the event is delivered", async || (receiver.requests().len() == 1).then_some(())).await;
    until("one is rejected again", async || (output(&bed, &[]).lines().count() == 2).then_some(())).await;

    assert_eq!(output(&bed, &["discard", "--all"]).matches("deleted").count(), 2);
    assert_eq!(output(&bed, &[]), "");
    let unknown = bed.program(&["rejected", "discard", ids[0]]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[tokio::test]
async fn a_replayed_message_does_not_undo_a_later_correction() {
    let mut bed = Bed::new(600.0).await;
    let id = bed.order(Script::handling_forever());
    let mut worker = bed.worker().await;
    let data = format!(
        r#"{{"topupId":"{id}","customer":{{"email":"wrong@example.dz"}},"callbackUrl":"https://shop.example.dz/hook"}}"#
    );
    bed.message(&[(b"name", b"poll-topup"), (b"data", data.as_bytes())]).await;
    let rejected = async || bed.redis::<usize>(&["XLEN", "{topup}:rejected"]).await;
    until("the message is rejected", async || (rejected().await == 1).then_some(())).await;
    bed.enqueue([&id]).await;
    let corrected = bed.program(&["correct", &id, "--email", "right@example.dz"]);
    assert!(corrected.status.success(), "{}", String::from_utf8_lossy(&corrected.stderr));
    let store = bed.store().await;
    let (topup_id, order) = (id.parse().unwrap(), async || store.order(&id.parse().unwrap()).await.unwrap());
    let email = async || {
        let customer = store.order(&topup_id).await.unwrap()?.customer?;
        customer.email.map(|email| email.reveal().to_owned())
    };
    until("it is corrected", async || (email().await.as_deref() == Some("right@example.dz")).then_some(()))
        .await;
    assert!(worker.stop().await.success());
    bed.set("CALLBACK_ALLOWED_HOSTS", "shop.example.dz");
    let _worker = bed.worker().await;
    output(&bed, &["replay", "--all"]);
    until("the message is processed", async || order().await.and_then(|order| order.callback_url)).await;
    assert_eq!(email().await.as_deref(), Some("right@example.dz"));
}
