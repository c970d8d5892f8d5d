//! Checks that this program can listen on `HTTP_ADDR` and `REVEAL_ADDR`. The check listens only for a moment.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::limited;
use super::report::Check;

const HTTP: &str = "http-addr";
const REVEAL: &str = "reveal-addr";

pub(super) async fn http(addr: SocketAddr) -> Check {
    look(HTTP, "HTTP_ADDR", "/healthz, /readyz and /metrics", addr).await
}

/// Checks `REVEAL_ADDR`. `addr` is `None` if no `REVEAL_URL` is set.
pub(super) async fn reveal(addr: Option<SocketAddr>) -> Check {
    let Some(addr) = addr else {
        return Check::ok(REVEAL, "REVEAL_URL is not set: there is no page behind links");
    };
    look(REVEAL, "REVEAL_ADDR", "the page behind links", addr).await
}

async fn look(name: &'static str, setting: &str, what: &str, addr: SocketAddr) -> Check {
    limited(name, async {
        match TcpListener::bind(addr).await {
            Ok(_) => Check::ok(name, format!("{addr} is free for {what}")),
            Err(error) => taken(name, setting, addr, error.kind()),
        }
    })
    .await
}

fn taken(name: &'static str, setting: &str, addr: SocketAddr, why: ErrorKind) -> Check {
    match why {
        ErrorKind::AddrInUse => Check::warn(
            name,
            format!("{addr} is taken, perhaps by a worker that runs on this machine"),
            format!("give every worker its own {setting}"),
        ),
        ErrorKind::PermissionDenied => Check::fail(
            name,
            format!("this user may not listen on {addr}"),
            format!("choose a port above 1023 in {setting}"),
        ),
        ErrorKind::AddrNotAvailable => Check::fail(
            name,
            format!("{addr} is not an address of this machine"),
            format!(
                "set {setting} to an address of this machine, or to 0.0.0.0 and the port for all of them"
            ),
        ),
        _ => Check::fail(name, format!("cannot listen on {addr}"), format!("choose another {setting}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[tokio::test]
    async fn a_taken_address_is_a_warning() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(http(addr).await.verdict, Verdict::Warn);
        let page = reveal(Some(addr)).await;
        assert_eq!((page.verdict, page.name), (Verdict::Warn, REVEAL));
        assert!(page.advice.is_some_and(|advice| advice.contains("REVEAL_ADDR")));
        drop(listener);
        assert_eq!(http(addr).await.verdict, Verdict::Ok);
        // 192.0.2.1 is reserved for documentation, so no machine has this address.
        assert_eq!(http("192.0.2.1:9".parse().unwrap()).await.verdict, Verdict::Fail);
        assert_eq!(reveal(None).await.verdict, Verdict::Ok);
    }
}
