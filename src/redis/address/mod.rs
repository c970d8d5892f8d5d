//! The address of Redis: a single server, Sentinels or a cluster.
//!
//! All keys of a deployment share one slot, so a worker needs exactly one server at any moment: the one in `REDIS_URL`,
//! the master that the Sentinels name, or the cluster node that owns the slot. Only [`RedisAddress::client`] knows the
//! difference. A caller calls it again if the connection fails or the server is no longer the right one.
//!
//! This module must not print the address, which may hold a password, or use TLS without verifying the certificate.

mod cluster;
mod sentinel;
mod url;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, ConnectionInfo, RedisResult, TlsCertificates};

use self::sentinel::Sentinels;
use super::Names;
use super::backoff::Backoff;

pub use self::url::InvalidAddress;

/// Address of a deployment's Redis. Clones share the number of failovers and the last known owner of the keys' slot.
#[derive(Clone)]
pub struct RedisAddress {
    kind: Arc<Kind>,
    /// Certificates of the authorities to trust instead of the system's.
    authorities: Option<Arc<TlsCertificates>>,
    /// The number of known failovers.
    failovers: Arc<AtomicU64>,
}

enum Kind {
    /// One server, whose address never changes.
    Fixed(ConnectionInfo),
    Sentinels(Sentinels),
    Cluster {
        nodes: Vec<ConnectionInfo>,
        /// A key in the slot of the deployment.
        key: String,
        /// The last known owner of the slot. If all nodes of the URL are gone, this node may still know the cluster.
        last_owner: Mutex<Option<ConnectionInfo>>,
    },
}

impl RedisAddress {
    /// Parses a URL, for keys with these names. Does not connect.
    ///
    /// # Errors
    /// [`InvalidAddress`] if the URL has none of the accepted forms.
    pub fn parse(url: &str, names: &Names) -> Result<Self, InvalidAddress> {
        crate::tls::use_ring();
        Ok(Self { kind: Arc::new(url::parse(url, names)?), authorities: None, failovers: Arc::default() })
    }

    /// Trusts the authorities of these PEM certificates instead of the system's. Only for an encrypted address.
    #[must_use]
    pub fn trusting(mut self, pem: Vec<u8>) -> Self {
        self.authorities = Some(Arc::new(TlsCertificates { client_tls: None, root_cert: Some(pem) }));
        self
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self.server().addr(), ConnectionAddr::TcpTls { .. })
    }

    /// Whether the address always leads to the same server.
    pub(super) fn is_fixed(&self) -> bool {
        matches!(*self.kind, Kind::Fixed(_))
    }

    pub(super) fn database(&self) -> i64 {
        self.server().redis_settings().db()
    }

    /// Returns a client of the server that has the keys now.
    ///
    /// # Errors
    /// [`redis::RedisError`] if no Sentinel names the master, no node names the owner, or a certificate is unreadable.
    pub async fn client(&self) -> RedisResult<Client> {
        match &*self.kind {
            Kind::Fixed(server) => self.open(server.clone()),
            Kind::Sentinels(sentinels) => {
                sentinels.client(self.is_encrypted(), self.authorities.as_deref())?.async_get_client().await
            }
            Kind::Cluster { nodes, key, last_owner } => {
                let last = last_owner.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let open = |node| self.open(node);
                let (owner, client) = cluster::owner(nodes.iter().cloned().chain(last), key, open).await?;
                *last_owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
                Ok(client)
            }
        }
    }

    /// Returns the number of known failovers. A connection made before the last failover must be replaced.
    pub(super) fn failover_epoch(&self) -> u64 {
        self.failovers.load(Ordering::Relaxed)
    }

    /// Counts a failover, so that all connections are replaced.
    pub(super) fn failed_over(&self) {
        self.failovers.fetch_add(1, Ordering::Relaxed);
    }

    /// Listens for failovers that Sentinels report. A cluster needs no task: a node that lost the keys answers `MOVED`.
    pub(crate) async fn watch(self) {
        let Kind::Sentinels(sentinels) = &*self.kind else { return };
        let mut backoff = Backoff::new();
        loop {
            if let Ok(client) = sentinels.client(self.is_encrypted(), self.authorities.as_deref())
                && sentinels.listen(client, &self.failovers).await.is_ok()
            {
                backoff = Backoff::new();
            }
            backoff.wait().await;
        }
    }

    fn open(&self, server: ConnectionInfo) -> RedisResult<Client> {
        let server = server.set_tcp_settings(tcp_settings());
        match &self.authorities {
            Some(authorities) => Client::build_with_tls(server, TlsCertificates::clone(authorities)),
            None => Client::open(server),
        }
    }

    /// Returns one server. All servers of this address have the same encryption, login and database.
    fn server(&self) -> &ConnectionInfo {
        match &*self.kind {
            Kind::Fixed(server) | Kind::Sentinels(Sentinels { master: server, .. }) => server,
            // Invariant: `url::parse` makes no cluster without nodes.
            Kind::Cluster { nodes, .. } => nodes.first().expect("a cluster has nodes"),
        }
    }
}

fn tcp_settings() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// Hides the address, which may hold a password.
impl std::fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisAddress").finish_non_exhaustive()
    }
}
