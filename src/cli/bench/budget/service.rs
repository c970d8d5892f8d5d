//! Measures this service as a tracker: starts worker processes, and an endpoint that receives their webhooks.

use std::net::Ipv4Addr;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use redis::AsyncCommands;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::super::bench_redis::BenchRedis;
use super::super::worker::{database_url, end, spawn_whole};
use super::RATE_LIMIT;
use super::backlog::Backlog;
use super::load::{Load, Notified, Tracked};
use crate::cli::private::Process;

const WORKERS: u32 = 2;
/// Outcomes whose event ends an order in this measurement. A delayed order is awaited further.
const ENDS: [&str; 3] = ["fulfilled", "refunded", "scheduled"];

pub(super) async fn track(
    load: &Load<'_>,
    bench: &mut BenchRedis,
    list_polling: &str,
    card_details: &str,
) -> anyhow::Result<Tracked> {
    let provider = load.provider().await?;
    let (webhook_url, _endpoint) = listen(provider.notified.clone()).await?;
    let settings = [
        ("ONECLICKDZ_API_URL", provider.url.clone()),
        ("ONECLICKDZ_API_KEY", "sandbox-key".to_owned()),
        ("ONECLICKDZ_RATE_LIMIT", RATE_LIMIT.to_string()),
        ("LIST_POLLING", list_polling.to_owned()),
        ("CARD_DETAILS", card_details.to_owned()),
        ("WEBHOOK_URL", webhook_url),
        ("WEBHOOK_SECRET", format!("whsec_{}", "A".repeat(32))),
        ("ALLOW_INSECURE_WEBHOOKS", "true".to_owned()),
        ("TIME_SCALE", load.settings.time_scale.to_string()),
    ];
    let database = ulid::Ulid::generate().to_string();
    let backlog = Backlog::prepare(load, bench, &provider, &database_url(bench, &database)).await?;
    let start = |n| spawn_whole(bench, &format!("worker {n}"), &database, &settings);
    let workers: Vec<Process> = (1..=WORKERS).map(start).collect::<anyhow::Result<_>>()?;
    let signed_on = bench.key("workers");
    bench
        .until("the workers are ready", async || {
            Ok(bench.number(&["ZCARD", &signed_on]).await? == u64::from(WORKERS))
        })
        .await?;
    let (inbox, redis) = (bench.names.inbox(), &bench.redis);
    let mut tracked = load
        .arrive(&provider, async |topup_id| {
            let data = format!(r#"{{"topupId":"{topup_id}"}}"#);
            let fields = [("name", "poll-topup"), ("data", &data)];
            let _id: String = redis.clone().xadd(&inbox, "*", &fields).await?;
            Ok(())
        })
        .await?;
    tracked.rechecks_answered = backlog.answered(provider.notified.simulator(), load.settings.time_scale);
    for worker in workers {
        end(worker).await?;
    }
    Ok(tracked)
}

/// Serves an endpoint that receives the workers' webhooks and records which orders were notified.
async fn listen(notified: Notified) -> anyhow::Result<(String, AbortOnDropHandle<std::io::Result<()>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let router = Router::new().route("/", post(receive)).with_state(notified);
    let serving = tokio::spawn(axum::serve(listener, router).into_future());
    Ok((url, AbortOnDropHandle::new(serving)))
}

async fn receive(State(notified): State<Notified>, headers: HeaderMap) -> StatusCode {
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    if let ["evt", topup_id, outcome] = id.split('_').collect::<Vec<_>>()[..]
        && ENDS.contains(&outcome)
    {
        notified.now(topup_id);
    }
    StatusCode::NO_CONTENT
}
