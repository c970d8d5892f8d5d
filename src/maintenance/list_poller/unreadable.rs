//! Rows of the list that cannot be read: told once a reading, not once a row.

use topup_jobs::TopupId;

/// The rows of one reading that cannot be read.
#[derive(Default)]
pub(super) struct Unreadable {
    rows: usize,
    /// The first of them whose order is known.
    topup_id: Option<TopupId>,
}

impl Unreadable {
    /// Adds the rows of a page, each with the id of its order if that can be read.
    pub(super) fn add(&mut self, rows: Vec<Option<TopupId>>) {
        self.rows += rows.len();
        self.topup_id = self.topup_id.take().or_else(|| rows.into_iter().flatten().next());
    }

    /// Says so in the log.
    pub(super) fn warn(&self) {
        if self.rows > 0 {
            let topup_id = self.topup_id.as_ref().map_or("unknown", TopupId::as_str);
            tracing::warn!(
                rows = self.rows,
                order.id = topup_id,
                "rows of the provider's list cannot be read; their orders are asked for one by one"
            );
        }
    }
}
