//! The merchant's backend in the demo: sends top-ups to the provider and hands each over with one XADD. Like any
//! producer, it uses only the provider's HTTP API and that Redis command. The number of orders decides which outcomes
//! the orders get, the simulator's seed how long each takes. The invented customers and numbers must not be printed.

use std::time::Duration;

use anyhow::Context;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

use crate::redis::Names;

/// Real time (not scaled) over which the orders are sent, except the last ones; see [`kept_back`].
const SPREAD: Duration = Duration::from_secs(6);
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// An order that was sent to the provider and handed over to the workers.
pub(super) struct Sent {
    pub(super) topup_id: String,
    pub(super) reference: String,
}

pub(super) struct Producer {
    http: reqwest::Client,
    send_url: String,
    api_key: String,
    redis: MultiplexedConnection,
    inbox: String,
    /// For each order, in the sequence of sending: the hint to the simulator that decides the order's outcome.
    lives: Vec<&'static str>,
    sent: Vec<Sent>,
}

impl Producer {
    pub(super) fn new(
        orders: u32,
        api_url: &str,
        api_key: &str,
        redis: MultiplexedConnection,
        names: &Names,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            http: crate::http::client_builder().timeout(ANSWER_TIME).build()?,
            send_url: format!("{api_url}/v3/internet/send"),
            api_key: api_key.to_owned(),
            redis,
            inbox: names.inbox(),
            lives: lives(orders),
            sent: Vec::new(),
        })
    }

    pub(super) fn sent(&self) -> &[Sent] {
        &self.sent
    }

    pub(super) fn all_sent(&self) -> bool {
        self.sent.len() == self.lives.len()
    }

    /// Sends the orders due by `at`, the time since the start, except the last ones; see [`Producer::send_rest`].
    pub(super) async fn send_due(&mut self, at: Duration) -> anyhow::Result<()> {
        let one_by_one = self.lives.len() - kept_back(self.lives.len());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a share of at most some hundreds"
        )]
        let due = (at.div_duration_f64(SPREAD).min(1.0) * one_by_one as f64).ceil() as usize;
        self.send_up_to(due).await
    }

    pub(super) async fn send_rest(&mut self) -> anyhow::Result<()> {
        self.send_up_to(self.lives.len()).await
    }

    /// Hands over a message that is not JSON, like a faulty producer.
    pub(super) async fn send_nonsense(&mut self) -> anyhow::Result<()> {
        self.hand_over("topupId=oops").await
    }

    async fn send_up_to(&mut self, end: usize) -> anyhow::Result<()> {
        let from = self.sent.len();
        let mut fresh = Vec::new();
        for place in from..end {
            fresh.push(self.order(place).await?);
        }
        for (place, order) in (from..).zip(fresh) {
            self.hand_over(&data(place, &order).to_string()).await?;
            self.sent.push(order);
        }
        Ok(())
    }

    /// Creates an order with `POST /v3/internet/send`.
    async fn order(&self, place: usize) -> anyhow::Result<Sent> {
        let reference = format!("order-{}-{}", place + 1, self.lives[place]);
        let (kind, number) = match place % 3 {
            0 => ("4G", format!("213{:09}", 550_000_000 + place)),
            _ => ("ADSL", format!("0{:08}", 36_000_000 + place)),
        };
        let body = json!({ "type": kind, "number": number, "value": 1000, "ref": reference });
        let answer = self
            .http
            .post(&self.send_url)
            .header("X-Access-Token", &self.api_key)
            .header("Content-Type", "application/json")
            .body(body.to_string())
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .context("the simulated provider did not accept an order")?;
        let answer: Value = serde_json::from_slice(&answer.bytes().await?)?;
        let topup_id = answer["data"]["topupId"].as_str().context("the provider's answer has no topupId")?;
        Ok(Sent { topup_id: topup_id.to_owned(), reference })
    }

    async fn hand_over(&mut self, data: &str) -> anyhow::Result<()> {
        let mut add = redis::cmd("XADD");
        add.arg(&self.inbox).arg("*").arg("name").arg("poll-topup").arg("data").arg(data);
        add.exec_async(&mut self.redis).await.context("Redis did not accept a message")
    }
}

fn data(place: usize, order: &Sent) -> Value {
    let (number, locale) = (place + 1, ["fr", "ar", "en"][place % 3]);
    json!({
        "topupId": order.topup_id,
        "topupRef": order.reference,
        "customer": {
            "name": format!("Customer {number}"),
            "email": format!("customer-{number}@example.dz"),
            "locale": locale,
        },
        "metadata": { "cart": number },
    })
}

/// Number of orders sent last, just before a worker is killed, so that this worker is busy: a sixth, at least three.
fn kept_back(orders: usize) -> usize {
    (orders / 6).max(3)
}

/// Returns one hint to the simulator per order. The slowest outcomes come first, so that the demo ends in a minute.
fn lives(orders: u32) -> Vec<&'static str> {
    let (queued, slow, refunded) = (orders.div_ceil(6), orders / 10, orders / 10);
    let fulfilled = orders - queued - slow - refunded;
    [("sim-queued", queued), ("sim-slow", slow), ("sim-refunded", refunded), ("sim-fulfilled", fulfilled)]
        .into_iter()
        .flat_map(|(life, count)| (0..count).map(move |_| life))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_orders_has_every_life() {
        for orders in 10..=500 {
            let lives = lives(orders);
            assert_eq!(lives.len(), usize::try_from(orders).unwrap());
            for life in ["sim-queued", "sim-slow", "sim-refunded", "sim-fulfilled"] {
                assert!(lives.contains(&life), "{orders}: {life}");
            }
            let kept_back = &lives[lives.len() - kept_back(lives.len())..];
            assert!(!kept_back.is_empty() && kept_back.iter().all(|life| *life == "sim-fulfilled"));
        }
    }
}
