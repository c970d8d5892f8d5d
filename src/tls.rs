//! The one TLS stack of this service: rustls with ring, for HTTP and for Redis.

/// Has every TLS connection of this process use ring. To be called before the first is made.
pub(crate) fn use_ring() {
    // Fails only where a provider is installed already, which is then this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
