//! Finds the node of a cluster that owns the slot of our keys.
//!
//! Any node answers a command on a key of another node with `MOVED` and the address of the owner. So we find the owner
//! by a plain read of one of our keys. Every worker has the permission for this read, and a replica can answer it, too.
//!
//! While a slot migrates, its keys are on two nodes, and no script may run that would find only some of them. The old
//! node runs a script only if it has all keys that the script declares; otherwise it answers `ASK` or `TRYAGAIN`. So a
//! script declares every key that it touches, or the name of its queue: no such key exists, so it cannot run then. The
//! new node serves only clients that follow an `ASK`; this client never does. So work waits for the migration to end.

use futures_util::StreamExt;
use futures_util::stream;
use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value,
};

/// Maximum redirects from node to node. After these the nodes are assumed to disagree on the owner.
const MAX_HOPS: usize = 5;
/// Nodes that are queried at a time, so that unreachable ones do not delay the search.
const ASKED_AT_ONCE: usize = 3;

/// Finds the owner of the key's slot by asking these nodes in their order. Returns the first owner that is found.
pub(super) async fn owner(
    nodes: impl Iterator<Item = ConnectionInfo>,
    key: &str,
    open: impl Fn(ConnectionInfo) -> RedisResult<Client>,
) -> RedisResult<(ConnectionInfo, Client)> {
    let mut failed = RedisError::from((ErrorKind::ClusterConnectionNotFound, "no node was named"));
    let questions = nodes.map(|node| ask(node, key, &open));
    let mut answers = stream::iter(questions).buffered(ASKED_AT_ONCE);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(owner) => return Ok(owner),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn ask(
    mut node: ConnectionInfo,
    key: &str,
    open: impl Fn(ConnectionInfo) -> RedisResult<Client>,
) -> RedisResult<(ConnectionInfo, Client)> {
    for _ in 0..MAX_HOPS {
        let client = open(node.clone())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let Err(error) = redis::cmd("EXISTS").arg(key).query_async::<Value>(&mut connection).await else {
            return Ok((node, client));
        };
        match error.kind() {
            // The slot is migrating to another node, and this one owns it until the migration ends.
            ErrorKind::Server(ServerErrorKind::Ask) => return Ok((node, client)),
            ErrorKind::Server(ServerErrorKind::Moved) => node = sent_on(&node, &error).ok_or(error)?,
            _ => return Err(error),
        }
    }
    Err(RedisError::from((ErrorKind::ClusterConnectionNotFound, "the nodes disagree on the owner")))
}

/// Returns the node to which `node` redirects with the error `MOVED`.
fn sent_on(node: &ConnectionInfo, moved: &RedisError) -> Option<ConnectionInfo> {
    let (address, _slot) = moved.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = |here: &str| if host.is_empty() { here.to_owned() } else { host.to_owned() };
    let address = match node.addr() {
        ConnectionAddr::TcpTls { host: here, .. } => {
            ConnectionAddr::TcpTls { host: host(here), port, insecure: false, tls_params: None }
        }
        ConnectionAddr::Tcp(here, _) => ConnectionAddr::Tcp(host(here), port),
        _ => return None,
    };
    Some(node.clone().set_addr(address))
}
