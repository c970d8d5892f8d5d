//! What a store is opened for.

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To read; the database itself refuses anything else.
    Read,
    /// To read and to write.
    Write,
}
