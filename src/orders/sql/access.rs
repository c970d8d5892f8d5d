//! Whether a store is opened to read only, or also to write.

/// What a process may do with the store that it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only; the database refuses to write.
    Read,
    /// Read and write.
    Write,
}
