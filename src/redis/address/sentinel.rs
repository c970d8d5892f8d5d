//! Sentinels, which name the master of a group of Redis servers and report failovers.

use std::sync::atomic::{AtomicU64, Ordering};

use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{ConnectionInfo, RedisResult, TlsCertificates, TlsMode};

use super::super::subscription::Subscription;

pub(super) struct Sentinels {
    pub(super) hosts: Vec<ConnectionInfo>,
    pub(super) master_name: String,
    /// Login, database and encryption of the master, with a placeholder for its host.
    pub(super) master: ConnectionInfo,
}

impl Sentinels {
    /// Builds a client. Each query needs a new one, because a connection to a Sentinel may have died silently.
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

    /// Counts in `failovers` what the first reachable Sentinel reports, until the connection to it ends. A failover by
    /// command causes no errors: the old master accepts writes for some seconds more, and then discards them.
    pub(super) async fn listen(&self, client: SentinelClient, failovers: &AtomicU64) -> RedisResult<()> {
        let mut client = client;
        let connecting = async { client.async_get_sentinel_client().await?.get_async_pubsub().await };
        let mut words = Subscription::start(connecting, &["+switch-master".to_owned()]).await?;
        // A failover before the subscription may have been missed, so one is counted.
        failovers.fetch_add(1, Ordering::Relaxed);
        while let Some(word) = words.next().await? {
            // The message holds the name of the master, its old address and its new address.
            let word: String = word.get_payload().unwrap_or_default();
            if word.split(' ').next() == Some(&self.master_name) {
                failovers.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
