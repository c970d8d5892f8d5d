//! Counts unreadable rows of the list, so that each reading logs them in one line.

use topup_jobs::TopupId;

#[derive(Default)]
pub(super) struct Unreadable {
    rows: usize,
    /// The first order id that could be read.
    topup_id: Option<TopupId>,
}

impl Unreadable {
    /// Adds the unreadable rows of a page: for each the id of its order, if that can be read.
    pub(super) fn add(&mut self, rows: Vec<Option<TopupId>>) {
        self.rows += rows.len();
        self.topup_id = self.topup_id.take().or_else(|| rows.into_iter().flatten().next());
    }

    pub(super) fn warn(&self) {
        if self.rows > 0 {
            let topup_id = self.topup_id.as_ref().map_or("unknown", TopupId::as_str);
            tracing::warn!(
                rows = self.rows,
                order.id = topup_id,
                "rows of the provider's list cannot be read; their orders are checked one by one"
            );
        }
    }
}
