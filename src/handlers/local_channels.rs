//! Sends a new event on the local channels, the event stream and the log, within the job that stored it.
//!
//! Both take an event at once and may get it twice, so these notifications need no `notify-customer` job. The order's job
//! sends them before it is settled. If the send fails, or if the job runs again after a crash, a `notify-customer` job
//! sends the event. The result is recorded in the background, so that the settlement need not wait for it. If a crash
//! prevents the record, the notification is still pending in the store, and `maintenance::restore` enqueues its job.

use std::time::Duration;

use topup_jobs::NotifyCustomer;

use super::Environment;
use super::apply::Stored;
use crate::error_chain::chain;
use crate::job::NextJob;
use crate::notify::{CardForm, Delivery};
use crate::orders::{NewEvent, Notification, NotificationStatus, Order};

/// Most results that are recorded in the background. If more come, the jobs record theirs themselves.
const MAX_RECORDINGS: usize = 1_000;
/// Pause before a result is recorded, so that the order's other channels come first and several orders share a
/// transaction.
const RECORDED_AFTER: Duration = Duration::from_millis(50);

impl Environment {
    /// Sends the event of a change on the local channels. Returns jobs for the other pending notifications, and for those
    /// whose local channel failed.
    pub(super) async fn notify(&self, order: &Order, stored: Stored) -> Vec<NextJob> {
        let Stored { event, pending } = stored;
        let mut jobs = Vec::with_capacity(pending.len());
        for notification in pending {
            let sent = match event.as_ref().filter(|event| reports(event, &notification)) {
                Some(event) => self.send_locally(order, event, &notification).await,
                None => false,
            };
            if sent {
                self.record_sent(notification).await;
            } else {
                jobs.push(NextJob::notify(&notification));
            }
        }
        jobs
    }

    /// Sends an event if the notification's channel is local. Returns whether it was sent.
    async fn send_locally(&self, order: &Order, event: &NewEvent, notification: &NotifyCustomer) -> bool {
        let Some(channel) = self.channels.get(&notification.channel) else { return false };
        if !channel.repeat_is_harmless() || channel.card_form() != CardForm::Nothing {
            return false;
        }
        let event_id = notification.event_id();
        let (outcome, event) = (notification.outcome, &event.body);
        channel.send(Delivery { event_id: &event_id, outcome, event, order, reveal_link: None }).await.is_ok()
    }

    async fn record_sent(&self, notification: NotifyCustomer) {
        let now = self.clock.now();
        let sent = Notification {
            outcome: notification.outcome,
            incident: notification.incident,
            channel: notification.channel.clone(),
            status: NotificationStatus::Sent,
            attempts: 1,
            next_attempt_at: None,
            sent_at: Some(now),
            last_error: None,
        };
        let store = self.store.clone();
        let recording = async move {
            if let Err(error) = store.record_attempt(&notification, &sent, None, now).await {
                tracing::debug!(
                    event.id = %notification.event_id(),
                    channel = notification.channel,
                    error = chain(&error),
                    "an event was sent, but this was not recorded; the event is sent again"
                );
            }
        };
        if self.recordings.len() < MAX_RECORDINGS {
            self.recordings.spawn(async move {
                tokio::time::sleep(RECORDED_AFTER).await;
                recording.await;
            });
        } else {
            recording.await;
        }
    }
}

/// Whether this notification is one of this event. The incident of an outcome that recurs is known to the store only.
fn reports(event: &NewEvent, notification: &NotifyCustomer) -> bool {
    event.outcome == notification.outcome && !event.outcome.recurs()
}
