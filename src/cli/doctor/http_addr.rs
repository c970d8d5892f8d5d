//! `HTTP_ADDR`: whether it can be listened on. It is let go again at once.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::limited;
use super::report::Check;

const NAME: &str = "http-addr";

pub(super) async fn look(addr: SocketAddr) -> Check {
    limited(NAME, async {
        match TcpListener::bind(addr).await {
            Ok(_) => Check::ok(NAME, format!("{addr} is free for /healthz and /readyz")),
            Err(error) => taken(addr, error.kind()),
        }
    })
    .await
}

fn taken(addr: SocketAddr, why: ErrorKind) -> Check {
    match why {
        ErrorKind::AddrInUse => Check::warn(
            NAME,
            format!("{addr} is taken, perhaps by a worker that runs on this machine"),
            "give every worker an HTTP_ADDR of its own",
        ),
        ErrorKind::PermissionDenied => Check::fail(
            NAME,
            format!("{addr} may not be listened on by this user"),
            "choose a port above 1023 in HTTP_ADDR",
        ),
        ErrorKind::AddrNotAvailable => Check::fail(
            NAME,
            format!("{addr} is no address of this machine"),
            "set HTTP_ADDR to an address of this machine, or to 0.0.0.0 and the port for all of them",
        ),
        _ => Check::fail(NAME, format!("{addr} cannot be listened on"), "choose another HTTP_ADDR"),
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
        assert_eq!(look(addr).await.verdict, Verdict::Warn);
        drop(listener);
        assert_eq!(look(addr).await.verdict, Verdict::Ok);
        // An address for documentation, which no machine has.
        assert_eq!(look("192.0.2.1:9".parse().unwrap()).await.verdict, Verdict::Fail);
    }
}
