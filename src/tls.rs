//! The one TLS stack of this service: rustls with ring, for HTTP and for Redis.

/// Makes ring the cryptography provider of every TLS connection. It must be called before the first connection.
pub(crate) fn use_ring() {
    // This fails only if a provider is already installed, and then that provider is ring, too.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
