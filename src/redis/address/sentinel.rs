//! What the Sentinels know: who the master is, and that it is another one now.

use std::sync::atomic::{AtomicU64, Ordering};

use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{ConnectionInfo, RedisResult, TlsCertificates, TlsMode};

use super::super::subscription::Subscription;

/// The Sentinels and the master that they watch.
pub(super) struct Sentinels {
    pub(super) hosts: Vec<ConnectionInfo>,
    pub(super) master_name: String,
    /// How to log in at the master, at whatever host it is.
    pub(super) master: ConnectionInfo,
    /// How often they said that the master is another one now.
    pub(super) failover_epoch: AtomicU64,
}

impl Sentinels {
    /// Built anew for each question: a connection to a Sentinel that was kept may have died silently.
    pub(super) fn client(
        &self,
        encrypted: bool,
        authorities: Option<&TlsCertificates>,
    ) -> RedisResult<SentinelClient> {
        let addresses = self.hosts.iter().map(|sentinel| sentinel.addr().clone());
        let mut builder =
            SentinelClientBuilder::new(addresses, &self.master_name, SentinelServerType::Master)?
                .set_client_to_redis_db(self.master.redis_settings().db())
                .set_client_to_redis_tcp_settings(super::tcp_settings());
        if let Some(user) = self.master.redis_settings().username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = self.master.redis_settings().password() {
            builder = builder.set_client_to_redis_password(password);
        }
        // The login is the same for all Sentinels; there is always a first one.
        let login = self.hosts.first().map(ConnectionInfo::redis_settings);
        if let Some(user) = login.and_then(|login| login.username()) {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = login.and_then(|login| login.password()) {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if encrypted {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(authorities) = authorities {
            builder = builder
                .set_client_to_redis_certificates(authorities.clone())
                .set_client_to_sentinel_certificates(authorities.clone());
        }
        builder.build()
    }

    /// Counts what the first Sentinel that answers says of new masters, until it says nothing more.
    ///
    /// In a fail-over by command, the old master goes on for seconds as if it were the one,
    /// answers every write, and then throws them away. So its answers are no proof, and the Sentinels' word
    /// is needed.
    pub(super) async fn listen(&self, client: SentinelClient) -> RedisResult<()> {
        let mut client = client;
        let connecting = async { client.async_get_sentinel_client().await?.get_async_pubsub().await };
        let mut words = Subscription::start(connecting, &["+switch-master".to_owned()]).await?;
        // Whatever was said before now was not heard.
        self.failover_epoch.fetch_add(1, Ordering::Relaxed);
        while let Some(word) = words.next().await? {
            // The name, then the old and the new address.
            let word: String = word.get_payload().unwrap_or_default();
            if word.split(' ').next() == Some(&self.master_name) {
                self.failover_epoch.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
