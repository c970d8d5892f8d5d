//! `topup-worker dead-letters`: shows dead letters, has them run again, or deletes them.
//!
//! Only ids and reasons are shown: a payload may hold the customer, and a terminal is a log. Dead letters that Redis
//! has lost are read from the store. Should a command end halfway, a letter stays where it was, or a worker completes
//! it.

use std::collections::HashSet;
use std::time::Duration;

use clap::{Args, Subcommand};
use topup_jobs::{JobName, NotifyCustomer, PollTopup, TopupId, TrackTopup};

use super::store::{open_beside, open_to_read};
use super::{connect, failed, one_line, say, time};
use crate::clock::real_now;
use crate::config::{RedisSettings, StoreSettings};
use crate::handlers::StoredDeadLetter;
use crate::job::NextJob;
use crate::orders::{OrderStore, SqlStore};
use crate::queue::{DeadLetter, DeadLetters, Replayed};

/// Dead letters that are read from the store in one go.
const MAX_READ: u32 = 1000;

#[derive(Debug, Args)]
pub(super) struct DeadLettersSettings {
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    store: StoreSettings,

    /// Only those of this job: poll-topup, recheck-topup or notify-customer
    #[arg(long, global = true)]
    job: Option<JobName>,

    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show them all, the oldest first (what happens without a command)
    List,
    /// Show what is known of one
    Show {
        /// Its id, as `list` shows it
        id: String,
    },
    /// Have one run again, or all; an order is tracked anew, an event gets all its attempts again
    Replay {
        #[command(flatten)]
        which: Which,
    },
    /// Delete one for good; its order is not tracked any more, its event not told
    Discard {
        /// Its id, as `list` shows it
        id: String,
    },
}

/// One of them, or all.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// Its id, as `list` shows it
    pub(super) id: Option<String>,

    /// All of them
    #[arg(long)]
    pub(super) all: bool,
}

pub(super) async fn dead_letters(settings: DeadLettersSettings) -> anyhow::Result<()> {
    let connection = connect(&settings.redis)?;
    let letters = DeadLetters::new(connection.clone(), settings.redis.prefix.clone());
    let action = settings.action.unwrap_or(Action::List);
    let store = match &action {
        Action::List | Action::Show { .. } => open_to_read(&settings.store, &settings.redis).await,
        Action::Replay { .. } | Action::Discard { .. } => {
            Ok(open_beside(&settings.store, &connection, &settings.redis.prefix).await?)
        }
    };
    let all = all(&letters, store.as_ref().ok(), settings.job).await?;
    match (action, store) {
        (Action::List, store) => {
            all.iter().try_for_each(|letter| say(line(&letter.known)))?;
            store.map(drop).map_err(incomplete)
        }
        (Action::Show { id }, store) => {
            let chosen = match (chosen(all, &id), store) {
                (Err(_), Err(error)) => return Err(incomplete(error)),
                (chosen, _) => chosen?,
            };
            for letter in chosen {
                show(&letters, &letter).await?;
            }
            Ok(())
        }
        (Action::Replay { which }, store) => {
            let store = store?;
            let all = match which.id {
                Some(id) => chosen(all, &id)?,
                None => all,
            };
            for letter in all {
                replay(&letters, &store, &letter).await?;
            }
            Ok(())
        }
        (Action::Discard { id }, store) => {
            let store = store?;
            for letter in chosen(all, &id)? {
                discard(&letters, &store, &letter).await?;
            }
            Ok(())
        }
    }
}

/// Redis alone was looked at.
fn incomplete(error: anyhow::Error) -> anyhow::Error {
    error.context("dead letters that Redis has lost are not shown: the database cannot be read")
}

/// A dead letter, and what puts it back where Redis has lost it.
struct Letter {
    known: DeadLetter,
    lost: Option<StoredDeadLetter>,
}

/// The dead letters of this job, or of all: those of Redis, and those that only the store knows of. The oldest first.
async fn all(
    letters: &DeadLetters,
    store: Option<&SqlStore>,
    job: Option<JobName>,
) -> anyhow::Result<Vec<Letter>> {
    let mut all = Vec::new();
    for job in JobName::ALL {
        let known = letters.list(job).await.map_err(failed)?;
        all.extend(known.into_iter().map(|known| Letter { known, lost: None }));
    }
    if let Some(store) = store {
        let mut known: HashSet<Vec<u8>> = all.iter().map(|letter| letter.known.id.clone()).collect();
        for stored in stored(store).await? {
            let letter = DeadLetter::from(&stored);
            if known.insert(letter.id.clone()) {
                all.push(Letter { known: letter, lost: Some(stored) });
            }
        }
    }
    all.retain(|letter| job.is_none_or(|job| letter.known.job == job));
    let place = |job| JobName::ALL.iter().position(|known| *known == job);
    all.sort_by_key(|letter| (place(letter.known.job), letter.known.dead_at, letter.known.id.clone()));
    Ok(all)
}

/// The dead letters that the store knows of.
async fn stored(store: &SqlStore) -> anyhow::Result<Vec<StoredDeadLetter>> {
    let mut all: Vec<StoredDeadLetter> = Vec::new();
    let mut behind = None;
    loop {
        let page = store.given_up_orders(behind.as_ref(), MAX_READ).await?;
        all.extend(page.found.into_iter().map(StoredDeadLetter::from));
        behind = page.behind;
        if behind.is_none() {
            break;
        }
    }
    let mut behind = None;
    loop {
        let page = store.given_up_notifications(behind.as_ref(), MAX_READ).await?;
        all.extend(page.found.into_iter().map(StoredDeadLetter::from));
        behind = page.behind;
        if behind.is_none() {
            return Ok(all);
        }
    }
}

/// The dead letters of this id: an order's may be one of several jobs.
fn chosen(mut all: Vec<Letter>, id: &str) -> anyhow::Result<Vec<Letter>> {
    all.retain(|letter| shown(&letter.known.id) == id);
    anyhow::ensure!(!all.is_empty(), "there is no dead letter {id}");
    Ok(all)
}

/// An id as it is shown: one that a foreign program made may be any bytes.
fn shown(id: &[u8]) -> String {
    id.escape_ascii().to_string()
}

fn line(letter: &DeadLetter) -> String {
    let DeadLetter { job, id, reason, .. } = letter;
    format!("{}  {job:<15}  {}  {}", time(letter.dead_at), shown(id), one_line(reason))
}

/// What the job carries.
async fn payload(letters: &DeadLetters, letter: &Letter) -> anyhow::Result<Option<Vec<u8>>> {
    match &letter.lost {
        Some(stored) => Ok(Some(stored.job.payload.clone())),
        None => letters.payload(&letter.known).await.map_err(failed),
    }
}

async fn show(letters: &DeadLetters, letter: &Letter) -> anyhow::Result<()> {
    let payload = payload(letters, letter).await?;
    let letter = &letter.known;
    let subject = payload.as_deref().and_then(|payload| subject(letter.job, payload));
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let notification = subject.as_ref().and_then(|subject| match subject {
        Subject::Told(notification) => {
            Some(format!("{}{} by {}", notification.outcome, notification.incident, notification.channel))
        }
        Subject::Order(_) | Subject::Instruction(_) => None,
    });
    let order = subject.map(|subject| match subject {
        Subject::Order(order) => order.topup_id.to_string(),
        Subject::Instruction(topup_id) => topup_id.to_string(),
        Subject::Told(notification) => notification.topup_id.to_string(),
    });
    let size = payload.map_or_else(|| "none".to_owned(), |payload| format!("{} bytes", payload.len()));
    for (name, value) in [
        ("job", letter.job.to_string()),
        ("id", shown(&letter.id)),
        ("order", or_none(order)),
        ("to tell", or_none(notification)),
        ("reason", one_line(&letter.reason)),
        ("dead at", time(letter.dead_at)),
        ("attempts made", or_none(letter.attempts_made.map(|made| made.to_string()))),
        ("last error", or_none(letter.last_error.as_deref().map(one_line))),
        ("payload", size),
    ] {
        say(format_args!("{name:<16} {value}"))?;
    }
    Ok(())
}

/// What a job is about.
enum Subject {
    Order(Box<TrackTopup>),
    /// A message about an order that is known, which its own job carries out.
    Instruction(TopupId),
    Told(NotifyCustomer),
}

/// Nothing where the payload cannot be read.
fn subject(job: JobName, payload: &[u8]) -> Option<Subject> {
    match job {
        JobName::NotifyCustomer => serde_json::from_slice(payload).ok().map(Subject::Told),
        // Both jobs carry the same.
        JobName::PollTopup | JobName::RecheckTopup => {
            let PollTopup(order) = serde_json::from_slice(payload).ok()?;
            Some(match order.instruction {
                Some(_) => Subject::Instruction(order.topup_id),
                None => Subject::Order(Box::new(order)),
            })
        }
    }
}

async fn replay(letters: &DeadLetters, store: &SqlStore, letter: &Letter) -> anyhow::Result<()> {
    let payload = payload(letters, letter).await?;
    put_back(letters, letter).await?;
    let letter = &letter.known;
    let (job, id) = (letter.job, shown(&letter.id));
    let Some(subject) = payload.as_deref().and_then(|payload| subject(job, payload)) else {
        return say(format_args!("{job}  {id}  left: its payload cannot be read, and could not be then"));
    };
    // The list may be minutes old: what the store notes must be true now.
    if !letters.mark(letter).await.map_err(failed)? {
        return say(format_args!("{job}  {id}  left: it is no dead letter any more, or is tracked already"));
    }
    let payload = match subject {
        Subject::Order(order) => replayed_order(store, *order).await?,
        Subject::Told(notification)
            if store.notify_again(&notification, REPLAYED, false, real_now()).await? =>
        {
            Some(NextJob::notify(&notification).payload)
        }
        // Its job has changed nothing in the store.
        Subject::Instruction(_) => None,
        // The database is older than Redis. A worker has the order tracked anew.
        Subject::Told(notification) if store.order(&notification.topup_id).await?.is_none() => None,
        Subject::Told(_) => {
            let why = "the database has no such notification, or it was sent";
            return say(format_args!("{job}  {id}  left: {why}"));
        }
    };
    let done = match letters.replay(job, &letter.id, payload.as_deref()).await.map_err(failed)? {
        Replayed::Due => "runs again",
        Replayed::Gone => "is no dead letter any more",
        Replayed::Tracked => "left: the order is tracked already",
    };
    say(format_args!("{job}  {id}  {done}"))
}

/// Has the order tracked from the beginning: what happens to it from now on is a new incident, with an event of its
/// own. Returns what its job carries from now on, if the order is stored.
async fn replayed_order(store: &SqlStore, order: TrackTopup) -> anyhow::Result<Option<Vec<u8>>> {
    store.replay_order(&order.topup_id, REPLAYED, real_now()).await?;
    let Some(stored) = store.order(&order.topup_id).await? else { return Ok(None) };
    let request = TrackTopup { tracked_at: Some(stored.tracking.tracked_at), ..order };
    Ok(Some(NextJob::check(JobName::PollTopup, request, Duration::ZERO).payload))
}

async fn discard(letters: &DeadLetters, store: &SqlStore, letter: &Letter) -> anyhow::Result<()> {
    let payload = payload(letters, letter).await?;
    put_back(letters, letter).await?;
    let letter = &letter.known;
    let subject = payload.as_deref().and_then(|payload| subject(letter.job, payload));
    // Before the store, which would have a worker put it back should this command end in between.
    let there = letters.discard(letter.job, &letter.id).await.map_err(failed)?;
    match subject.filter(|_| there) {
        Some(Subject::Order(order)) => {
            store.discard_order(&order.topup_id, DISCARDED, real_now()).await?;
        }
        // No longer pending, it is not put back into a queue.
        Some(Subject::Told(notification)) => store.discard(&notification, DISCARDED, real_now()).await?,
        Some(Subject::Instruction(_)) | None => {}
    }
    if there {
        // A worker may have put it back before the store knew.
        letters.discard(letter.job, &letter.id).await.map_err(failed)?;
    }
    let done = if there { "deleted" } else { "is no dead letter any more" };
    say(format_args!("{}  {}  {done}", letter.job, shown(&letter.id)))
}

/// Puts a letter back that Redis has lost, so that it is dealt with like any other.
async fn put_back(letters: &DeadLetters, letter: &Letter) -> anyhow::Result<()> {
    if let Some(lost) = &letter.lost {
        letters.put_back(std::slice::from_ref(lost)).await.map_err(failed)?;
    }
    Ok(())
}

/// What was done with a dead letter, as it stands in the history of its order.
const REPLAYED: &str = "replayed by the operator";
const DISCARDED: &str = "discarded by the operator";
