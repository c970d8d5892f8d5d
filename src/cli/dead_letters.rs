//! `topup-worker dead-letters`: lists, replays and deletes dead letters. Dead letters that Redis has lost are read from
//! the store. Payloads are not shown, because they may hold customer data and terminal output may be recorded. If the
//! command is interrupted, the dead letter is unchanged, or a worker completes the change.

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

/// Maximum number of dead letters per query of the store.
const MAX_READ: u32 = 1000;

#[derive(Debug, Args)]
pub(super) struct DeadLettersSettings {
    #[command(flatten)]
    redis: RedisSettings,
    #[command(flatten)]
    store: StoreSettings,

    /// Only dead letters of this job: poll-topup, recheck-topup or notify-customer
    #[arg(long, global = true)]
    job: Option<JobName>,

    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all dead letters, the oldest first (the default)
    List,
    /// Show the details of one dead letter
    Show {
        /// The id, as `list` shows it
        id: String,
    },
    /// Replay one or all: an order is tracked from the start, a notification gets all its attempts again
    Replay {
        #[command(flatten)]
        which: Which,
    },
    /// Delete one for good: its order is no longer tracked, its notification not sent
    Discard {
        /// The id, as `list` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// The id, as `list` shows it
    pub(super) id: Option<String>,

    /// Select all
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
    let chosen = async |store: Option<&SqlStore>, id: &str| chosen(&letters, store, settings.job, id).await;
    match (action, store) {
        (Action::List, store) => {
            let all = all(&letters, store.as_ref().ok(), settings.job).await?;
            all.iter().try_for_each(|letter| say(line(&letter.known)))?;
            store.map(drop).map_err(incomplete)
        }
        (Action::Show { id }, store) => {
            let chosen = match (chosen(store.as_ref().ok(), &id).await, store) {
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
                Some(id) => chosen(Some(&store), &id).await?,
                None => all(&letters, Some(&store), settings.job).await?,
            };
            for letter in all {
                replay(&letters, &store, &letter).await?;
            }
            Ok(())
        }
        (Action::Discard { id }, store) => {
            let store = store?;
            for letter in chosen(Some(&store), &id).await? {
                discard(&letters, &store, &letter).await?;
            }
            Ok(())
        }
    }
}

/// Adds to a database error the note that dead letters which Redis has lost are not shown.
fn incomplete(error: anyhow::Error) -> anyhow::Error {
    error.context("dead letters that Redis has lost are not shown: the database cannot be read")
}

/// A dead letter. If Redis has lost it, `lost` holds the store's copy, so that the command can restore it in Redis.
struct Letter {
    known: DeadLetter,
    lost: Option<StoredDeadLetter>,
}

/// Reads the dead letters of `job`, or of all jobs, from Redis and the store. Sorts by job name, then oldest first.
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

/// Finds the dead letters with this id. Two may have it: a poll-topup and a recheck-topup job of the same order.
async fn chosen(
    letters: &DeadLetters,
    store: Option<&SqlStore>,
    job: Option<JobName>,
    id: &str,
) -> anyhow::Result<Vec<Letter>> {
    let mut chosen = if id.contains('\\') {
        // Redis and the store hold ids without escapes, so all dead letters are read, and their shown ids compared.
        all(letters, store, job).await?
    } else {
        of_id(letters, store, job, id).await?
    };
    chosen.retain(|letter| shown(&letter.known.id) == id);
    anyhow::ensure!(!chosen.is_empty(), "there is no dead letter {id}");
    Ok(chosen)
}

/// Reads the dead letters with this id from Redis, and those of its order from the store, without reading any others.
async fn of_id(
    letters: &DeadLetters,
    store: Option<&SqlStore>,
    job: Option<JobName>,
    id: &str,
) -> anyhow::Result<Vec<Letter>> {
    let mut found = Vec::new();
    for job in JobName::ALL.into_iter().filter(|known| job.is_none_or(|job| job == *known)) {
        let known = letters.find(job, id.as_bytes()).await.map_err(failed)?;
        found.extend(known.map(|known| Letter { known, lost: None }));
    }
    // The id of every job begins with that of its order.
    let topup_id = id.split(':').next().and_then(|topup_id| topup_id.parse().ok());
    if let (Some(store), Some(topup_id)) = (store, topup_id) {
        let (order, notifications) = store.dead_letters_of(&topup_id).await?;
        let of_order = order.into_iter().map(StoredDeadLetter::from);
        for stored in of_order.chain(notifications.into_iter().map(StoredDeadLetter::from)) {
            let letter = DeadLetter::from(&stored);
            let is_known = found.iter().any(|known| known.known.id == letter.id);
            if !is_known && job.is_none_or(|job| job == letter.job) {
                found.push(Letter { known: letter, lost: Some(stored) });
            }
        }
    }
    Ok(found)
}

/// Escapes an id for the terminal. Another program may have written the id, so the id may hold any bytes.
fn shown(id: &[u8]) -> String {
    id.escape_ascii().to_string()
}

fn line(letter: &DeadLetter) -> String {
    let DeadLetter { job, id, reason, .. } = letter;
    format!("{}  {job:<15}  {}  {}", time(letter.dead_at), shown(id), one_line(reason))
}

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
        Subject::Notification(notification) => {
            Some(format!("{}{} by {}", notification.outcome, notification.incident, notification.channel))
        }
        Subject::Order(_) | Subject::Instruction(_) => None,
    });
    let order = subject.map(|subject| match subject {
        Subject::Order(order) => order.topup_id.to_string(),
        Subject::Instruction(topup_id) => topup_id.to_string(),
        Subject::Notification(notification) => notification.topup_id.to_string(),
    });
    let size = payload.map_or_else(|| "none".to_owned(), |payload| format!("{} bytes", payload.len()));
    for (name, value) in [
        ("job", letter.job.to_string()),
        ("id", shown(&letter.id)),
        ("order", or_none(order)),
        ("notification", or_none(notification)),
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

/// What a job processes, read from its payload: an order, an instruction about an order, or a notification.
enum Subject {
    Order(Box<TrackTopup>),
    /// A message such as `check-topup`, which the job applies to the order with this id.
    Instruction(TopupId),
    Notification(NotifyCustomer),
}

/// Parses the payload of a job; `None` if the payload is invalid.
fn subject(job: JobName, payload: &[u8]) -> Option<Subject> {
    match job {
        JobName::NotifyCustomer => serde_json::from_slice(payload).ok().map(Subject::Notification),
        // `poll-topup` and `recheck-topup` have the same payload.
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
        return say(format_args!("{job}  {id}  not replayed: its payload cannot be read"));
    };
    // `letter` was read earlier. `mark` checks that the job is still a dead letter, before the store is changed.
    if !letters.mark(letter).await.map_err(failed)? {
        return say(format_args!("{job}  {id}  not replayed: no longer a dead letter, or already tracked"));
    }
    let payload = match subject {
        Subject::Order(order) => replayed_order(store, *order).await?,
        Subject::Notification(notification)
            if store.notify_again(&notification, REPLAYED, false, real_now()).await? =>
        {
            Some(NextJob::notify(&notification).payload)
        }
        // The store needs no change: the job has not applied its instruction yet, and applies it when it runs again.
        Subject::Instruction(_) => None,
        // The database lacks the order, as after a restored backup. The job runs again; its handler tracks the order.
        Subject::Notification(notification) if store.order(&notification.topup_id).await?.is_none() => None,
        Subject::Notification(_) => {
            let why = "the database has no such notification, or it was sent";
            return say(format_args!("{job}  {id}  not replayed: {why}"));
        }
    };
    let done = match letters.replay(job, &letter.id, payload.as_deref()).await.map_err(failed)? {
        Replayed::Due => "runs again",
        Replayed::Gone => "is no longer a dead letter",
        Replayed::Tracked => "not replayed: the order is already tracked",
    };
    say(format_args!("{job}  {id}  {done}"))
}

/// Restarts tracking in the store, so that another failure is a new incident with an event of its own. Returns the new
/// payload of the job; `None` if the order is not stored.
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
    // Redis is changed first. If the command ends before the store changes, a worker restores the dead letter in Redis.
    let there = letters.discard(letter.job, &letter.id).await.map_err(failed)?;
    match subject.filter(|_| there) {
        Some(Subject::Order(order)) => {
            store.discard_order(&order.topup_id, DISCARDED, real_now()).await?;
        }
        // The store marks the notification as no longer pending. Workers send only pending ones.
        Some(Subject::Notification(notification)) => {
            store.discard(&notification, DISCARDED, real_now()).await?;
        }
        Some(Subject::Instruction(_)) | None => {}
    }
    if there {
        // Deleted again, because a worker may have restored the dead letter before the store was changed.
        letters.discard(letter.job, &letter.id).await.map_err(failed)?;
    }
    let done = if there { "deleted" } else { "is no longer a dead letter" };
    say(format_args!("{}  {}  {done}", letter.job, shown(&letter.id)))
}

/// If Redis has lost the dead letter, restores it in Redis, so that it can be replayed or deleted like any other.
async fn put_back(letters: &DeadLetters, letter: &Letter) -> anyhow::Result<()> {
    if let Some(lost) = &letter.lost {
        letters.put_back(std::slice::from_ref(lost)).await.map_err(failed)?;
    }
    Ok(())
}

/// Reason that the order's history shows after a replay.
const REPLAYED: &str = "replayed by the operator";
const DISCARDED: &str = "discarded by the operator";
