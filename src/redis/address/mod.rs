//! Where Redis is, whatever kind of Redis it is.
//!
//! All keys of a deployment share one slot, so a worker needs exactly one server at any moment: the one
//! that stands in `REDIS_URL`, the master that the Sentinels name, or the node of a cluster that owns the
//! slot. That is the whole difference between the kinds, and [`RedisAddress::client`] is all that knows of
//! it. A caller asks again when the connection fails or the server says that it is no
//! longer the one.
//!
//! What this module must not do: print the address, which may hold a password, or connect over TLS without
//! verifying the certificate.

mod cluster;
mod sentinel;
mod url;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, ConnectionInfo, RedisResult, TlsCertificates};

use self::sentinel::Sentinels;
use super::Names;
use super::backoff::Backoff;

pub use self::url::InvalidAddress;

/// The address of a deployment's Redis. Clones share what was learnt of a cluster.
#[derive(Clone)]
pub struct RedisAddress {
    kind: Arc<Kind>,
    /// Certificates of the authorities to trust instead of the system's.
    authorities: Option<Arc<TlsCertificates>>,
}

enum Kind {
    /// One server, whose address never changes.
    Fixed(ConnectionInfo),
    Sentinels(Sentinels),
    Cluster {
        nodes: Vec<ConnectionInfo>,
        /// A key of the slot that matters.
        key: String,
        /// The node that owned the slot when it was last looked for. It may know of the cluster when all
        /// the nodes that were named are gone.
        last_owner: Mutex<Option<ConnectionInfo>>,
    },
}

impl RedisAddress {
    /// The address that this URL gives to the keys under these names. It does not connect.
    ///
    /// # Errors
    /// [`InvalidAddress`] where the URL has none of the accepted forms.
    pub fn parse(url: &str, names: &Names) -> Result<Self, InvalidAddress> {
        crate::tls::use_ring();
        Ok(Self { kind: Arc::new(url::parse(url, names)?), authorities: None })
    }

    /// Trusts the authorities of these PEM certificates, instead of those the system trusts. For an
    /// encrypted address only.
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

    /// Whether the server can never be another one.
    pub(super) fn is_fixed(&self) -> bool {
        matches!(*self.kind, Kind::Fixed(_))
    }

    /// The number of the database.
    pub(super) fn database(&self) -> i64 {
        self.server().redis_settings().db()
    }

    /// A client of the server that has the keys now.
    ///
    /// # Errors
    /// [`redis::RedisError`] where no Sentinel knows the master, no node of the cluster the owner, or a
    /// certificate cannot be read.
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

    /// How often the server is known to have become another one. A connection that was made before the last
    /// time is to be left.
    pub(super) fn failover_epoch(&self) -> u64 {
        match &*self.kind {
            Kind::Sentinels(sentinels) => sentinels.failover_epoch.load(Ordering::Relaxed),
            Kind::Fixed(_) | Kind::Cluster { .. } => 0,
        }
    }

    /// Listens for ever to who says that the server is another one. Only Sentinels do; a node that has lost
    /// the keys answers that question.
    pub(crate) async fn watch(self) {
        let Kind::Sentinels(sentinels) = &*self.kind else { return };
        let mut backoff = Backoff::new();
        loop {
            if let Ok(client) = sentinels.client(self.is_encrypted(), self.authorities.as_deref())
                && sentinels.listen(client).await.is_ok()
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

    /// What all servers of this address have in common: encryption, login, database.
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

/// Says nothing of the address.
impl std::fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisAddress").finish_non_exhaustive()
    }
}
