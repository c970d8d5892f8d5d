//! `topup-worker rejected`: lists, replays and deletes messages that workers rejected. Only ids and reasons are shown,
//! because a message may hold customer data and terminal output may be recorded.

use clap::{Args, Subcommand};

use super::dead_letters::Which;
use super::store::layout_must_be_known;
use super::{connect, failed, one_line, say};
use crate::config::RedisSettings;
use crate::queue::{Rejected, RejectedMessages, Returned};

#[derive(Debug, Args)]
pub(super) struct RejectedSettings {
    #[command(flatten)]
    redis: RedisSettings,

    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all rejected messages, the oldest first (the default)
    List,
    /// Put one or all back into the inbox unchanged, once the reason for the rejection is fixed
    Replay {
        #[command(flatten)]
        which: Which,
    },
    /// Delete one or all rejected messages for good
    Discard {
        #[command(flatten)]
        which: Which,
    },
}

pub(super) async fn rejected(settings: RejectedSettings) -> anyhow::Result<()> {
    let connection = connect(&settings.redis)?;
    let messages = RejectedMessages::new(connection.clone(), settings.redis.prefix.clone());
    let action = settings.action.unwrap_or(Action::List);
    if !matches!(action, Action::List) {
        layout_must_be_known(&connection, &settings.redis.prefix).await?;
    }
    match action {
        Action::List => list(&messages).await,
        Action::Replay { which } => {
            for id in chosen(&messages, which).await? {
                let done = match messages.replay(&id).await.map_err(failed)? {
                    Returned::InInbox(message_id) => format!("is in the inbox as {message_id}"),
                    Returned::Gone => "does not exist".to_owned(),
                    Returned::Packed => "not replayed: it has too many fields to be accepted".to_owned(),
                    Returned::Cut => "not replayed: it is too large and was cut".to_owned(),
                };
                say(format_args!("{id}  {done}"))?;
            }
            Ok(())
        }
        Action::Discard { which } => {
            for id in chosen(&messages, which).await? {
                let there = messages.discard(&id).await.map_err(failed)?;
                say(format_args!("{id}  {}", if there { "deleted" } else { "does not exist" }))?;
            }
            Ok(())
        }
    }
}

async fn list(messages: &RejectedMessages) -> anyhow::Result<()> {
    for Rejected { id, message_id, reason } in messages.list().await.map_err(failed)? {
        say(format_args!("{id}  message {}  {}", one_line(&message_id), one_line(&reason)))?;
    }
    match messages.dropped().await.map_err(failed)? {
        0 => Ok(()),
        dropped => say(format_args!(
            "{dropped} older rejected messages were deleted to keep to REJECTED_MESSAGES and REJECTED_MEGABYTES"
        )),
    }
}

/// Returns the ids to act on. They are read once, before the first replay, because a replayed message may be rejected
/// again under a new id and must not be replayed twice.
async fn chosen(messages: &RejectedMessages, which: Which) -> anyhow::Result<Vec<String>> {
    let all = messages.list().await.map_err(failed)?.into_iter().map(|message| message.id);
    let Some(id) = which.id else { return Ok(all.collect()) };
    let one: Vec<String> = all.filter(|known| *known == id).collect();
    anyhow::ensure!(!one.is_empty(), "there is no rejected message {id}");
    Ok(one)
}
