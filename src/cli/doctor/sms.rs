//! Checks that the SMS gateway accepts connections. It sends no request, because the gateway might send an SMS then.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use rustls_platform_verifier::ConfigVerifierExt;
use url::Url;

use super::limited;
use super::report::Check;
use super::webhook::is_exposed;
use crate::http::no_connection;

const NAME: &str = "sms";
/// Time limit for connecting and for each read of the TLS handshake.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn look(gateway: Option<Url>) -> Check {
    let Some(url) = gateway else {
        return Check::ok(NAME, "not set: no SMS is sent");
    };
    limited(NAME, async {
        let exposed = is_exposed(&url);
        // `reach` uses a plain `TcpStream` and no HTTP client, so that it sends nothing after the TLS handshake.
        let reached = tokio::task::spawn_blocking(move || reach(&url)).await;
        judge(reached.unwrap_or(Err("the check itself failed")), exposed)
    })
    .await
}

fn reach(url: &Url) -> Result<(), &'static str> {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err("the address names no host");
    };
    // A URL has brackets around an IPv6 address. Connecting and TLS need the address without them.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut last = Err("its name cannot be resolved");
    for address in (host, port).to_socket_addrs().map_err(|error| no_connection(&error))? {
        last = TcpStream::connect_timeout(&address, TIMEOUT).map_err(|error| no_connection(&error));
        if last.is_ok() {
            break;
        }
    }
    let mut stream = last?;
    if url.scheme() != "https" {
        return Ok(());
    }
    crate::tls::use_ring();
    let no_tls = "no TLS connection came about";
    stream.set_read_timeout(Some(TIMEOUT)).map_err(|error| no_connection(&error))?;
    let config = ClientConfig::with_platform_verifier().map_err(|_| no_tls)?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| no_tls)?;
    let mut tls = ClientConnection::new(Arc::new(config), name).map_err(|_| no_tls)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).map_err(|error| no_connection(&error))?;
    }
    Ok(())
}

fn judge(reached: Result<(), &'static str>, exposed: bool) -> Check {
    const NOT_TOLD: &str = "(nothing was sent)";
    match reached {
        Ok(()) if exposed => Check::warn(
            NAME,
            format!("the gateway can be reached, but texts would travel without TLS {NOT_TOLD}"),
            "set SMS_URL to an https:// address and remove ALLOW_INSECURE_SMS",
        ),
        Ok(()) => Check::ok(NAME, format!("the gateway can be reached {NOT_TOLD}")),
        Err(why) => Check::fail(
            NAME,
            format!("the gateway cannot be reached: {why} {NOT_TOLD}"),
            "check SMS_URL, the gateway's certificate, and that this host may connect to it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict::{Fail, Ok as Fine, Warn};
    use super::*;

    async fn verdict(url: &str) -> super::super::report::Check {
        look(Some(url.parse().unwrap())).await
    }

    #[tokio::test]
    async fn a_listening_gateway_is_reached_and_receives_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let check = verdict(&format!("http://{address}/send?token=t")).await;
        assert_eq!(check.verdict, Fine, "{check:?}");
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut heard).await.unwrap();
        assert_eq!(heard, b"");
    }

    #[tokio::test]
    async fn an_unreachable_gateway_is_reported_without_its_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let check = verdict(&format!("https://{address}/send?token=t")).await;
        assert_eq!(check.verdict, Fail);
        assert!(check.found.contains("the connection was refused"), "{check:?}");
        assert!(!check.found.contains("token"), "{check:?}");
        assert_eq!(judge(Ok(()), true).verdict, Warn);
        assert_eq!(look(None).await.verdict, Fine);
    }
}
