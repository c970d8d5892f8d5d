//! The arguments of `intake.lua` for an accepted message.

use redis::ScriptInvocation;
use topup_jobs::{Accepted, Instruction, InstructionKind, TrackTopup};

use crate::clock::Clock;
use crate::job::NextJob;
use crate::redis::{Names, millis};

/// Adds the arguments for an accepted message. `first_id` is the message's original id, if it was once rejected.
pub(super) fn add(
    call: &mut ScriptInvocation<'_>,
    names: &Names,
    clock: &dyn Clock,
    message_id: &str,
    first_id: Option<&str>,
    accepted: Accepted,
) {
    let Accepted { job, order, delay, .. } = accepted;
    let position = match first_id {
        // A message that was put back does not count as newer: it keeps the position at which it was first added.
        Some(first_id) => format!("{first_id}@{}", first_id.split('-').next().unwrap_or_default()),
        None => format!("{message_id}@{}", clock.deployment_now().timestamp_millis()),
    };
    let order = TrackTopup { message_id: Some(position), ..order };
    let what = what(&order);
    let instruction = order.instruction.unwrap_or(Instruction::new(InstructionKind::Update));
    let if_tracked =
        TrackTopup { force: false, instruction: Some(instruction.of_tracked()), ..order.clone() };
    let if_tracked = NextJob::instruct(if_tracked, message_id);
    let topup_id = order.topup_id.to_string();
    let next = match order.instruction {
        Some(_) => NextJob::instruct(order, message_id),
        None => NextJob::check(job, order, clock.real(delay)),
    };
    call.arg("accept").arg(what).arg(topup_id);
    call.arg(names.queue(next.job)).arg(next.id).arg(next.payload).arg(millis(next.delay));
    call.arg(if_tracked.payload);
}

/// The kind of the message for `intake.lua`. A repeat with details is an `update`, as they may be new to the store.
fn what(order: &TrackTopup) -> &'static str {
    match order.instruction.map(|instruction| instruction.kind) {
        Some(InstructionKind::Correct) => "correct",
        Some(InstructionKind::Cancel) => "cancel",
        Some(InstructionKind::Check) => "check",
        _ if order.force => "check",
        _ if order.names_details() => "update",
        _ => "repeat",
    }
}

/// Logs what `intake.lua` did with a message. For an ordinary new order the level is debug.
pub(super) fn log(topup_id: &str, message_id: &str, result: &str) {
    match result {
        "duplicate" => tracing::info!(
            order.id = topup_id,
            message.id = message_id,
            "dropped a message, because its order is already tracked and the message contains nothing new"
        ),
        "passed-on" => tracing::info!(
            order.id = topup_id,
            message.id = message_id,
            "enqueued a message as a separate job, because its order is already tracked"
        ),
        _ => tracing::debug!(order.id = topup_id, message.id = message_id, result, "accepted a message"),
    }
}

#[cfg(test)]
mod tests {
    use topup_jobs::accept;

    use super::*;

    fn what_of(name: &str, data: &str, opts: &str) -> &'static str {
        let data = format!(r#"{{"topupId":"6901616fe9e88196b4eb64b2"{data}}}"#);
        let fields = [("name", name), ("data", &data), ("opts", opts)];
        let fields = fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        what(&accept(&fields).unwrap().order)
    }

    #[test]
    fn the_kind_of_a_message_follows_from_its_name_and_fields() {
        assert_eq!(what_of("poll-topup", "", "{}"), "repeat");
        assert_eq!(what_of("recheck-topup", "", r#"{"delay":5,"attempts":2}"#), "repeat");
        for news in [r#","topupRef":"r""#, r#","customer":{}"#, r#","metadata":{}"#] {
            assert_eq!(what_of("poll-topup", news, "{}"), "update", "{news}");
        }
        assert_eq!(what_of("poll-topup", r#","metadata":{}"#, r#"{"force":true}"#), "check");
        assert_eq!(what_of("check-topup", "", "{}"), "check");
        assert_eq!(what_of("correct-topup", r#","customer":{"phone":"1"}"#, "{}"), "correct");
        assert_eq!(what_of("cancel-topup", "", "{}"), "cancel");
    }
}
