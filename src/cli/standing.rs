//! The first lines that `order` prints: whether the order is tracked, and which command resumes tracking or resends a
//! notification. They rely on the database and the queues in Redis; if Redis does not answer, on the database alone.

use topup_jobs::TopupId;

use super::store::PATIENCE;
use super::{connect, one_line, time};
use crate::config::RedisSettings;
use crate::orders::{HistoryEntry, Notification, NotificationStatus, Occurrence, Order};
use crate::queue::{Whereabouts, naming, whereabouts};
use crate::redis::{Connection, Names};

/// Where Redis holds the job of an order, or a message that names it. Both fields are `None` if Redis does not answer.
pub(super) struct InRedis {
    place: Option<Whereabouts>,
    /// If no queue holds the order: a phrase about the message that names it, printed after `order <id>`.
    message: Option<String>,
}

impl InRedis {
    /// Searches the queues. If none holds the order and it is not `stored`, searches the inbox and rejected messages.
    pub(super) async fn ask(
        settings: &RedisSettings,
        topup_id: &TopupId,
        stored: bool,
    ) -> anyhow::Result<Self> {
        let (connection, names) = (connect(settings)?, &settings.prefix);
        let asked = tokio::time::timeout(PATIENCE, ask(&connection, names, topup_id, stored)).await;
        Ok(match asked {
            Ok(Ok(known)) => known,
            Ok(Err(_)) | Err(_) => Self { place: None, message: None },
        })
    }

    /// Describes where Redis holds an order that is not stored; `None` if Redis does not hold the order either.
    pub(super) fn of_unknown(&self, topup_id: &TopupId) -> Option<String> {
        Some(match &self.place {
            Some(Whereabouts::Waits(job, at)) => {
                format!("order {topup_id} waits in {job} until {}; it is not stored yet", time(*at))
            }
            Some(Whereabouts::UnderWay(job)) => {
                format!("order {topup_id} is due in {job} or being checked; it is not stored yet")
            }
            Some(Whereabouts::DeadLetter(reason)) => format!(
                "DEAD LETTER: order {topup_id} was never stored: {}; `topup-worker dead-letters replay {topup_id}` \
                 starts its tracking",
                one_line(reason)
            ),
            _ => return self.of_message(topup_id),
        })
    }

    /// Describes the message, waiting or rejected, that names an order which no queue holds; `None` if there is none.
    pub(super) fn of_message(&self, topup_id: &TopupId) -> Option<String> {
        self.message.as_ref().map(|message| format!("order {topup_id} {message}"))
    }

    pub(super) fn is_silent(&self) -> bool {
        self.place.is_none()
    }
}

async fn ask(
    connection: &Connection,
    names: &Names,
    topup_id: &TopupId,
    stored: bool,
) -> redis::RedisResult<InRedis> {
    let place = whereabouts(connection, names, std::slice::from_ref(topup_id)).await?.pop();
    let mut message = None;
    if !stored && place == Some(Whereabouts::Nowhere) {
        let waiting = naming(connection, &names.inbox(), topup_id).await?;
        message = waiting
            .map(|found| format!("is in the inbox as message {}; no worker has read it yet", found.id));
        if message.is_none() {
            let rejected = naming(connection, &names.rejected(), topup_id).await?;
            message = rejected.map(|found| {
                let reason = one_line(&found.reason.unwrap_or_default());
                format!(
                    "was rejected: {reason}; `topup-worker rejected replay {}` puts it back into the inbox",
                    found.id
                )
            });
        }
    }
    Ok(InRedis { place, message })
}

/// Returns a line if the order is not tracked, and one for each notification that was given up.
pub(super) fn lines(
    order: &Order,
    redis: &InRedis,
    history: &[HistoryEntry],
    notifications: &[Notification],
) -> Vec<String> {
    let mut lines: Vec<String> = untracked(order, redis, history).into_iter().collect();
    for notification in notifications {
        if let NotificationStatus::Failed | NotificationStatus::Refused = notification.status {
            let event =
                format!("{}{} by {}", notification.outcome, notification.incident, notification.channel);
            let job_id = notification.payload(&order.topup_id).job_id();
            lines.push(format!(
                "NOT DELIVERED: {event} was given up; `topup-worker dead-letters replay {job_id}` sends it again"
            ));
        }
    }
    lines
}

/// Describes why a non-final order is not tracked; `None` if it is tracked or final.
fn untracked(order: &Order, redis: &InRedis, history: &[HistoryEntry]) -> Option<String> {
    let (topup_id, tracking) = (&order.topup_id, &order.tracking);
    if tracking.status.is_final() {
        return None;
    }
    if let Some(at) = order.cancelled_at {
        return Some(format!(
            "CANCELLED since {}: it is not checked; `topup-worker check {topup_id}` resumes its tracking",
            time(at)
        ));
    }
    let is_left =
        tracking.next_check_at.is_none() && matches!(redis.place, None | Some(Whereabouts::Nowhere));
    // If Redis has lost the dead letter, the database still holds its reason.
    let dead_letter = match &redis.place {
        Some(Whereabouts::DeadLetter(reason)) => Some(reason),
        _ => order.given_up.as_ref().filter(|_| is_left),
    };
    if let Some(reason) = dead_letter {
        return Some(format!(
            "DEAD LETTER: it is not checked: {}; `topup-worker dead-letters replay {topup_id}` resumes its tracking",
            one_line(reason)
        ));
    }
    if is_left && order.discarded {
        return Some(format!(
            "DISCARDED: it is not checked (dead letter discarded); `topup-worker check {topup_id}` resumes its tracking"
        ));
    }
    if is_left {
        let reason =
            given_up(history).or(tracking.last_error.as_deref()).unwrap_or("the reason is not known");
        return Some(format!(
            "GIVEN UP: it is not checked: {}; `topup-worker check {topup_id}` resumes its tracking",
            one_line(reason)
        ));
    }
    None
}

fn given_up(history: &[HistoryEntry]) -> Option<&str> {
    history.iter().rev().find_map(|entry| match &entry.what {
        Occurrence::Changed { given_up: Some(reason), .. } => Some(reason.as_str()),
        _ => None,
    })
}

pub(super) fn queue(redis: &InRedis) -> String {
    match &redis.place {
        None => "unknown: Redis does not answer".to_owned(),
        Some(Whereabouts::Waits(job, at)) => format!("{job}, due {}", time(*at)),
        Some(Whereabouts::UnderWay(job)) => format!("{job}, due now or being checked"),
        Some(Whereabouts::DeadLetter(_)) => "none: a dead letter".to_owned(),
        Some(Whereabouts::Nowhere) => "none".to_owned(),
    }
}
