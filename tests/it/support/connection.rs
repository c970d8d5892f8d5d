//! Connections of a test to Redis with a long timeout, for commands that must succeed. The client's default of half a
//! second for an answer may be too short on a machine that is busy with other tests.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult};

use super::DEADLINE;

/// Opens a connection to this URL.
pub(crate) async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    connect_to(&Client::open(url)?).await
}

/// Opens a connection to the server of this client.
pub(crate) async fn connect_to(client: &Client) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE))
        .set_response_timeout(Some(DEADLINE));
    client.get_multiplexed_async_connection_with_config(&config).await
}
