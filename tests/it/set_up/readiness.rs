//! `/readyz` while the database is away.

use std::time::Duration;

use super::{on_postgres, setting};
use crate::shutdown::get_from;
use crate::support::{Proxy, until};

#[tokio::test]
async fn a_worker_without_its_database_is_not_ready_and_recovers_by_itself() {
    let Some((mut bed, _postgres)) = on_postgres(600.0).await else { return };
    let url = setting(&bed, "DATABASE_URL").to_owned();
    let (user, rest) = url.split_once('@').unwrap();
    let (server, database) = rest.split_once('/').unwrap();
    let server = format!("redis://{server}");
    let proxy = Proxy::start(&server, Duration::ZERO).await;
    let through = proxy.url().replace("redis://", "");
    bed.set("DATABASE_URL", format!("{user}@{through}/{database}"));
    let address = bed.serve_http();
    let mut worker = bed.worker().await;
    let readyz = async |words: &str| {
        let what = format!("/readyz says {words}");
        until(&what, async || get_from(&address, "/readyz").await.contains(words).then_some(())).await;
    };
    readyz("200 OK").await;
    proxy.lead_to("redis://127.0.0.1:1");
    proxy.cut();
    readyz("not ready: the database does not answer").await;
    proxy.lead_to(&server);
    readyz("200 OK").await;
    worker.logs("the database answers again").await;
    let log = worker.log();
    for said_once in ["the database does not answer", "the database answers again"] {
        assert_eq!(log.matches(said_once).count(), 1, "{log}");
    }
    assert!(worker.stop().await.success());
}
