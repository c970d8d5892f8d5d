//! Wrappers of store, provider client and channels. They count the calls and abort the process at a given step.
//!
//! Every call has two steps: before it and after it. Nothing that outlives the process happens between the calls,
//! except the settlement, which is one script between the last step of a job and the first step of the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use secrecy::SecretString;
use topup_jobs::{
    Card, Instruction, JobName, NotifyCustomer, Outcome, ProviderOrder, Timestamp, TopupId, TrackTopup,
};
use topup_worker::notify::{CardForm, Channel, Delivery, SendError};
use topup_worker::orders::{
    Applied, Behind, BehindNotification, Change, Deleted, ForAttempt, GivenUpNotification, GivenUpOrder,
    HistoryEntry, Instructed, NewEvent, Notification, Order, OrderStore, Page, PendingNotification, Rekeyed,
    Reveal, RevealOutcome, StoreError, UncheckedOrder,
};
use topup_worker::provider::{ApiError, OrderList, TopupApi};

/// Counts steps down and aborts the process at the last one.
#[derive(Clone)]
pub(super) struct Steps(Arc<AtomicU32>);

impl Steps {
    pub(super) fn new(until_the_crash: u32) -> Self {
        Self(Arc::new(AtomicU32::new(until_the_crash)))
    }

    fn step(&self) {
        if self.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            // No destructor runs and no buffer is flushed, as in a power failure.
            std::process::abort();
        }
    }

    async fn around<T>(&self, call: impl Future<Output = T>) -> T {
        self.step();
        let answer = call.await;
        self.step();
        answer
    }
}

/// A store, a provider client or a channel whose calls are counted.
pub(super) struct Stepped<T: ?Sized> {
    pub(super) inner: Arc<T>,
    pub(super) steps: Steps,
}

#[async_trait]
impl TopupApi for Stepped<dyn TopupApi> {
    async fn check_id(&self, topup_id: &TopupId) -> Result<ProviderOrder, ApiError> {
        self.steps.around(self.inner.check_id(topup_id)).await
    }

    async fn list(&self, page: u32, from: Timestamp, to: Timestamp) -> Result<OrderList, ApiError> {
        self.steps.around(self.inner.list(page, from, to)).await
    }

    async fn verify(&self) -> Result<(), ApiError> {
        self.steps.around(self.inner.verify()).await
    }
}

#[async_trait]
impl Channel for Stepped<dyn Channel> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn wants(&self, outcome: Outcome, order: &Order) -> bool {
        self.inner.wants(outcome, order)
    }

    fn reaches_receivers(&self) -> bool {
        self.inner.reaches_receivers()
    }

    fn repeat_is_harmless(&self) -> bool {
        self.inner.repeat_is_harmless()
    }

    fn card_form(&self) -> CardForm {
        self.inner.card_form()
    }

    fn endpoint(&self, order: &Order) -> Option<String> {
        self.inner.endpoint(order)
    }

    async fn send(&self, delivery: Delivery<'_>) -> Result<(), SendError> {
        self.steps.around(self.inner.send(delivery)).await
    }
}

#[async_trait]
impl OrderStore for Stepped<dyn OrderStore> {
    async fn track(&self, request: &TrackTopup, now: Timestamp) -> Result<Order, StoreError> {
        self.steps.around(self.inner.track(request, now)).await
    }

    async fn order(&self, topup_id: &TopupId) -> Result<Option<Order>, StoreError> {
        self.steps.around(self.inner.order(topup_id)).await
    }

    async fn apply(&self, change: Change<'_>) -> Result<(Applied, Vec<NotifyCustomer>), StoreError> {
        self.steps.around(self.inner.apply(change)).await
    }

    async fn card(&self, topup_id: &TopupId) -> Result<Option<Card>, StoreError> {
        self.steps.around(self.inner.card(topup_id)).await
    }

    async fn for_attempt(
        &self,
        notification: &NotifyCustomer,
        with_card: bool,
    ) -> Result<Option<ForAttempt>, StoreError> {
        self.steps.around(self.inner.for_attempt(notification, with_card)).await
    }

    async fn notifications(&self, topup_id: &TopupId) -> Result<Vec<Notification>, StoreError> {
        self.steps.around(self.inner.notifications(topup_id)).await
    }

    async fn begin_attempt(
        &self,
        notification: &NotifyCustomer,
        attempt: &Notification,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.steps.around(self.inner.begin_attempt(notification, attempt, now)).await
    }

    async fn record_attempt(
        &self,
        notification: &NotifyCustomer,
        attempt: &Notification,
        undelivered: Option<&NewEvent>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.steps.around(self.inner.record_attempt(notification, attempt, undelivered, now)).await
    }

    async fn reveal_token(
        &self,
        notification: &NotifyCustomer,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<SecretString, StoreError> {
        self.steps.around(self.inner.reveal_token(notification, now, expires_at)).await
    }

    // The calls below are no steps of an outcome and are not counted.

    async fn instruct(
        &self,
        request: &TrackTopup,
        instruction: Instruction,
        now: Timestamp,
    ) -> Result<Option<Instructed>, StoreError> {
        self.inner.instruct(request, instruction, now).await
    }

    async fn notify_again(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        sent_too: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.inner.notify_again(notification, reason, sent_too, now).await
    }

    async fn discard(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.discard(notification, reason, now).await
    }

    async fn add_notification(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.inner.add_notification(notification, reason, now).await
    }

    async fn hasten(&self, notification: &NotifyCustomer, now: Timestamp) -> Result<bool, StoreError> {
        self.inner.hasten(notification, now).await
    }

    async fn close_incidents(&self, topup_id: &TopupId) -> Result<(), StoreError> {
        self.inner.close_incidents(topup_id).await
    }

    async fn unchecked_orders(
        &self,
        job: JobName,
        before: Timestamp,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Page<UncheckedOrder>, StoreError> {
        self.inner.unchecked_orders(job, before, behind, most).await
    }

    async fn given_up_orders(
        &self,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Page<GivenUpOrder>, StoreError> {
        self.inner.given_up_orders(behind, most).await
    }

    async fn pending_notifications(
        &self,
        before: Timestamp,
        behind: Option<&BehindNotification>,
        most: u32,
    ) -> Result<Page<PendingNotification, BehindNotification>, StoreError> {
        self.inner.pending_notifications(before, behind, most).await
    }

    async fn given_up_notifications(
        &self,
        behind: Option<&BehindNotification>,
        most: u32,
    ) -> Result<Page<GivenUpNotification, BehindNotification>, StoreError> {
        self.inner.given_up_notifications(behind, most).await
    }

    async fn replay_order(
        &self,
        topup_id: &TopupId,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.inner.replay_order(topup_id, reason, now).await
    }

    async fn discard_order(
        &self,
        topup_id: &TopupId,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.inner.discard_order(topup_id, reason, now).await
    }

    async fn note_given_up(
        &self,
        topup_id: &TopupId,
        reason: &str,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        self.inner.note_given_up(topup_id, reason, at).await
    }

    async fn history(&self, topup_id: &TopupId) -> Result<Vec<HistoryEntry>, StoreError> {
        self.inner.history(topup_id).await
    }

    async fn reveal(&self, token: &str) -> Result<Option<Reveal>, StoreError> {
        self.inner.reveal(token).await
    }

    async fn try_reveal(
        &self,
        token: &str,
        right: bool,
        most_tries: u32,
        now: Timestamp,
    ) -> Result<RevealOutcome, StoreError> {
        self.inner.try_reveal(token, right, most_tries, now).await
    }

    async fn delete_ended(
        &self,
        before: Timestamp,
        now: Timestamp,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Deleted, StoreError> {
        self.inner.delete_ended(before, now, behind, most).await
    }

    async fn release_space(&self) -> Result<bool, StoreError> {
        self.inner.release_space().await
    }

    async fn rekey(&self, behind: Option<&TopupId>, most: u32) -> Result<Rekeyed, StoreError> {
        self.inner.rekey(behind, most).await
    }

    async fn links_of_previous_keys(&self) -> Result<u64, StoreError> {
        self.inner.links_of_previous_keys().await
    }
}
