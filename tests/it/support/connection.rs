//! A test's own connection to Redis. The client's default gives an answer half a second, which a machine that is
//! busy with other tests may need: a command of a test that must succeed goes through here.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult};

use super::DEADLINE;

/// A connection to this address that waits for slow answers.
pub(crate) async fn connect(url: &str) -> RedisResult<MultiplexedConnection> {
    connect_to(&Client::open(url)?).await
}

/// The same, to the server of this client.
pub(crate) async fn connect_to(client: &Client) -> RedisResult<MultiplexedConnection> {
    let patient = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE))
        .set_response_timeout(Some(DEADLINE));
    client.get_multiplexed_async_connection_with_config(&patient).await
}
