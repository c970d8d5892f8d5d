//! Webhooks against receivers that are down, slow, refuse, move, and answer by halves: what is sent, when, how
//! often, and that nobody else waits for it.

mod bulkhead;
mod callback;
mod dead_letters;
mod receiver;
mod rejected;
mod resend;
mod rotation;
mod schedule;

use serde_json::json;

use crate::support::{Bed, until};
use topup_jobs::{Incident, JobName, NotifyCustomer, Outcome};
use topup_worker::orders::{Notification, OrderStore};

/// Hands an order over that is to be told at this address.
async fn enqueue_at(bed: &Bed, topup_id: &str, callback_url: &str) {
    let data = json!({
        "topupId": topup_id,
        "callbackUrl": callback_url,
        "customer": {"name": "Zohra Benkaddour", "phone": "0661998877"},
        "metadata": {"cart": [1, 2]},
    });
    bed.message(&[(b"name", b"poll-topup"), (b"data", data.to_string().as_bytes())]).await;
}

/// The secret that a callback host verifies its events with.
async fn callback_secret(bed: &Bed, host: &str) -> String {
    let output = bed.program_beside(&["callback-secret", host]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a text").trim_end().to_owned()
}

/// How far telling of an outcome by a channel has come.
async fn source(bed: &Bed, topup_id: &str, outcome: Outcome, channel: &str) -> Option<Notification> {
    let told = bed.store().await.notifications(&topup_id.parse().expect("an id")).await.expect("it is read");
    told.into_iter().find(|told| told.outcome == outcome && told.channel == channel)
}

/// Waits until this event is a dead letter, and returns the reason.
async fn dead(bed: &Bed, topup_id: &str, outcome: Outcome, channel: &str) -> String {
    let (topup_id, channel) = (topup_id.parse().expect("an id"), channel.to_owned());
    let id = NotifyCustomer { topup_id, outcome, incident: Incident::FIRST, channel }.job_id();
    let key = format!("{{topup}}:{}:meta:{id}", JobName::NotifyCustomer);
    until(&format!("{id} is a dead letter"), async || {
        bed.redis::<Option<String>>(&["HGET", &key, "reason"]).await
    })
    .await
}
