//! Webhooks to receivers that are down, slow, refusing, moved or sending partial responses: what is sent, when and
//! how often, and that other receivers are not delayed.

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

/// Enqueues an order with this callback URL.
async fn enqueue_at(bed: &Bed, topup_id: &str, callback_url: &str) {
    let data = json!({
        "topupId": topup_id,
        "callbackUrl": callback_url,
        "customer": {"name": "Zohra Benkaddour", "phone": "0661998877"},
        "metadata": {"cart": [1, 2]},
    });
    bed.message(&[(b"name", b"poll-topup"), (b"data", data.to_string().as_bytes())]).await;
}

/// The secrets with which a callback host verifies its events, one a line.
async fn callback_secret(bed: &Bed, host: &str) -> String {
    let output = bed.program_async(&["callback-secret", host]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a text").trim_end().to_owned()
}

/// The stored notification of this outcome by this channel.
async fn notification(bed: &Bed, topup_id: &str, outcome: Outcome, channel: &str) -> Option<Notification> {
    let all = bed.store().await.notifications(&topup_id.parse().expect("an id")).await.expect("it is read");
    all.into_iter().find(|one| one.outcome == outcome && one.channel == channel)
}

/// Waits until this notification is a dead letter, and returns the reason.
async fn dead_letter(bed: &Bed, topup_id: &str, outcome: Outcome, channel: &str) -> String {
    let (topup_id, channel) = (topup_id.parse().expect("an id"), channel.to_owned());
    let id = NotifyCustomer { topup_id, outcome, incident: Incident::FIRST, channel }.job_id();
    let key = format!("{{topup}}:{}:meta:{id}", JobName::NotifyCustomer);
    until(&format!("{id} is a dead letter"), async || {
        bed.redis::<Option<String>>(&["HGET", &key, "reason"]).await
    })
    .await
}
