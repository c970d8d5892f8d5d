//! Which node of a cluster owns the slot of our keys.
//!
//! Any node knows, and answers a command on a key that is not its own with `MOVED`, with the owner's
//! address. So the question is a plain read of one of our keys, for which a user needs no permission that a
//! worker has no use for anyway, and a replica answers it as well as a master.
//!
//! While a slot is on its way, its keys are at two nodes, and a script that ran then would find half of
//! them. None does. Each names all keys that it touches, or its queue as a key; as no key has just that name,
//! the old node answers `ASK` before the script begins, and the new node serves only those who follow an
//! `ASK`, which we never do. So work waits until the slot has arrived.

use futures_util::StreamExt;
use futures_util::stream;
use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value,
};

/// How often a node may send on to another before the answers count as going round in circles.
const MAX_HOPS: usize = 5;
/// How many nodes are asked at a time, so that nodes that do not answer hold up no search.
const ASKED_AT_ONCE: usize = 3;

/// Asks these nodes for the owner of the key's slot; the first that leads to it counts.
pub(super) async fn owner(
    nodes: impl Iterator<Item = ConnectionInfo>,
    key: &str,
    open: impl Fn(ConnectionInfo) -> RedisResult<Client>,
) -> RedisResult<(ConnectionInfo, Client)> {
    let mut failed = RedisError::from((ErrorKind::ClusterConnectionNotFound, "no node was named"));
    let questions = nodes.map(|node| follow(node, key, &open));
    let mut answers = stream::iter(questions).buffered(ASKED_AT_ONCE);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(owner) => return Ok(owner),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn follow(
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
            // The slot is on its way to another node, and until it is there this one owns it.
            ErrorKind::Server(ServerErrorKind::Ask) => return Ok((node, client)),
            ErrorKind::Server(ServerErrorKind::Moved) => node = sent_on(&node, &error).ok_or(error)?,
            _ => return Err(error),
        }
    }
    Err(RedisError::from((ErrorKind::ClusterConnectionNotFound, "the nodes disagree on the owner")))
}

/// The node that an answer of this node leads to.
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
