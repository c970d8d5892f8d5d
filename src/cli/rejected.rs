//! `topup-worker rejected`: messages that could not be accepted, to look at, to put back, to delete.
//!
//! Only ids and reasons are shown: a message may hold the customer, and a terminal is a log.

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
    /// Show them all, the oldest first (what happens without a command)
    List,
    /// Put one back into the inbox as it was sent, or all: once what they were rejected for is mended
    Replay {
        #[command(flatten)]
        which: Which,
    },
    /// Delete one for good, or all
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
                    Returned::Gone => "is not there".to_owned(),
                    Returned::Packed => "left: it has too many fields ever to be accepted".to_owned(),
                    Returned::Cut => "left: it is too large ever to be accepted, and was cut".to_owned(),
                };
                say(format_args!("{id}  {done}"))?;
            }
            Ok(())
        }
        Action::Discard { which } => {
            for id in chosen(&messages, which).await? {
                let there = messages.discard(&id).await.map_err(failed)?;
                say(format_args!("{id}  {}", if there { "deleted" } else { "is not there" }))?;
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
            "{dropped} older messages were dropped so far: REJECTED_MESSAGES and REJECTED_MEGABYTES say how many are kept"
        )),
    }
}

/// The ids meant. All of them are those there are now: what is put back and rejected again is not met twice.
async fn chosen(messages: &RejectedMessages, which: Which) -> anyhow::Result<Vec<String>> {
    let all = messages.list().await.map_err(failed)?.into_iter().map(|message| message.id);
    let Some(id) = which.id else { return Ok(all.collect()) };
    let one: Vec<String> = all.filter(|known| *known == id).collect();
    anyhow::ensure!(!one.is_empty(), "there is no rejected message {id}");
    Ok(one)
}
