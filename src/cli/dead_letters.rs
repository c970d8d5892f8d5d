//! `topup-worker dead-letters`: jobs that were kept aside, to look at, to have run again, to delete.
//!
//! Only ids and reasons are shown: a payload may hold the customer, and a terminal is a log. What the store
//! knows is brought in line before the queue is: a crash between the two leaves the letter where it was.

use chrono::SecondsFormat;
use clap::{Args, Subcommand};
use topup_jobs::{JobName, NotifyCustomer, PollTopup, TopupId};

use super::{one_line, say};
use crate::clock::real_now;
use crate::config::{RedisSettings, StoreSettings};
use crate::orders::{self, Change, OrderStore, SqlStore};
use crate::queue::{Connection, DeadLetter, DeadLetters, RedisHealth, Replayed, describe};

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
    /// Have one run again, or all; an order is followed anew, an event gets all its attempts again
    Replay {
        #[command(flatten)]
        which: Which,
    },
    /// Delete one for good; its order is not followed any more, its event not told
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
    let connection = Connection::new(&settings.redis.address()?, &RedisHealth::default());
    let letters = DeadLetters::new(connection, settings.redis.prefix.clone());
    let jobs = settings.job.map_or_else(|| JobName::ALL.to_vec(), |job| vec![job]);
    let mut all = Vec::new();
    for job in jobs {
        all.extend(letters.list(job).await.map_err(failed)?);
    }
    match settings.action.unwrap_or(Action::List) {
        Action::List => all.iter().try_for_each(|letter| say(line(letter))),
        Action::Show { id } => {
            for letter in chosen(all, &id)? {
                show(&letters, &letter).await?;
            }
            Ok(())
        }
        Action::Replay { which } => {
            let store = open(&settings.store).await?;
            let all = match which.id {
                Some(id) => chosen(all, &id)?,
                None => all,
            };
            for letter in all {
                replay(&letters, &store, &letter).await?;
            }
            Ok(())
        }
        Action::Discard { id } => {
            let store = open(&settings.store).await?;
            for letter in chosen(all, &id)? {
                discard(&letters, &store, &letter).await?;
            }
            Ok(())
        }
    }
}

async fn open(settings: &StoreSettings) -> anyhow::Result<SqlStore> {
    Ok(orders::open(settings.database_url()?, settings.cipher()?).await?)
}

#[expect(clippy::needless_pass_by_value, reason = "it takes the place of the error")]
fn failed(error: redis::RedisError) -> anyhow::Error {
    anyhow::anyhow!("Redis did not do it: {}", describe(&error))
}

/// The dead letters of this id: an order's may be one of several jobs.
fn chosen(mut all: Vec<DeadLetter>, id: &str) -> anyhow::Result<Vec<DeadLetter>> {
    all.retain(|letter| shown(&letter.id) == id);
    anyhow::ensure!(!all.is_empty(), "there is no dead letter {id}");
    Ok(all)
}

/// An id as it is shown: one that a foreign program made may be any bytes.
fn shown(id: &[u8]) -> String {
    id.escape_ascii().to_string()
}

fn line(letter: &DeadLetter) -> String {
    let DeadLetter { job, id, reason, .. } = letter;
    format!("{}  {job:<15}  {}  {}", time(letter), shown(id), one_line(reason))
}

fn time(letter: &DeadLetter) -> String {
    letter.dead_at.map_or_else(|| "–".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

async fn show(letters: &DeadLetters, letter: &DeadLetter) -> anyhow::Result<()> {
    let payload = letters.payload(letter).await.map_err(failed)?;
    let subject = payload.as_deref().and_then(|payload| subject(letter.job, payload));
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let told = subject.as_ref().and_then(|subject| match subject {
        Subject::Told(told) => Some(format!("{}{} by {}", told.outcome, told.incident, told.channel)),
        Subject::Order(_) | Subject::Instruction(_) => None,
    });
    let order = subject.map(|subject| match subject {
        Subject::Order(topup_id) | Subject::Instruction(topup_id) => topup_id.to_string(),
        Subject::Told(told) => told.topup_id.to_string(),
    });
    let size = payload.map_or_else(|| "none".to_owned(), |payload| format!("{} bytes", payload.len()));
    for (name, value) in [
        ("job", letter.job.to_string()),
        ("id", shown(&letter.id)),
        ("order", or_none(order)),
        ("to tell", or_none(told)),
        ("reason", one_line(&letter.reason)),
        ("dead at", time(letter)),
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
    Order(TopupId),
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
                None => Subject::Order(order.topup_id),
            })
        }
    }
}

async fn replay(letters: &DeadLetters, store: &SqlStore, letter: &DeadLetter) -> anyhow::Result<()> {
    let (job, id) = (letter.job, shown(&letter.id));
    let payload = letters.payload(letter).await.map_err(failed)?;
    let Some(subject) = payload.as_deref().and_then(|payload| subject(job, payload)) else {
        return say(format_args!("{job}  {id}  left: its payload cannot be read, and could not be then"));
    };
    // What the store is told must be true when it is told: the list may be minutes old.
    if !letters.is_dead(letter).await.map_err(failed)? {
        return say(format_args!("{job}  {id}  left: it is no dead letter any more, or is followed already"));
    }
    match &subject {
        // An order that is given up is followed from the beginning by whoever takes it up again.
        // What happens to the order from now on is a new incident, with an event of its own.
        Subject::Order(topup_id) => {
            give_up(store, job, topup_id, REPLAYED).await?;
            store.close_incidents(topup_id).await?;
        }
        // Its job has changed nothing in the store.
        Subject::Instruction(_) => {}
        Subject::Told(told) if store.tell_again(told, REPLAYED, false, real_now()).await? => {}
        Subject::Told(_) => {
            let why = "the database knows of nothing to tell, or it was told";
            return say(format_args!("{job}  {id}  left: {why}"));
        }
    }
    let done = match letters.replay(letter).await.map_err(failed)? {
        Replayed::Due => "runs again",
        Replayed::Gone => "is no dead letter any more",
        Replayed::Followed => "left: the order is followed already",
    };
    say(format_args!("{job}  {id}  {done}"))
}

async fn discard(letters: &DeadLetters, store: &SqlStore, letter: &DeadLetter) -> anyhow::Result<()> {
    let payload = letters.payload(letter).await.map_err(failed)?;
    let subject = payload.as_deref().and_then(|payload| subject(letter.job, payload));
    let dead = letters.is_dead(letter).await.map_err(failed)?;
    match subject.filter(|_| dead) {
        Some(Subject::Order(topup_id)) => give_up(store, letter.job, &topup_id, DISCARDED).await?,
        Some(Subject::Told(told)) => {
            // No longer pending, it is not put back into a queue.
            store.discard(&told, DISCARDED, real_now()).await?;
        }
        Some(Subject::Instruction(_)) | None => {}
    }
    let there = letters.discard(letter).await.map_err(failed)?;
    let done = if there { "deleted" } else { "is no dead letter any more" };
    say(format_args!("{}  {}  {done}", letter.job, shown(&letter.id)))
}

/// What was done with a dead letter, as it stands in the history of its order.
const REPLAYED: &str = "replayed by the operator";
const DISCARDED: &str = "discarded by the operator";

/// Without a next look the order is not put back into a queue, and counts as given up.
async fn give_up(store: &SqlStore, job: JobName, topup_id: &TopupId, why: &str) -> anyhow::Result<()> {
    let Some(order) = store.order(topup_id).await? else { return Ok(()) };
    let mut record = order.tracking.clone();
    record.next_check_at = None;
    // Outdated: somebody follows it, and then it is not for us to give up.
    let change = Change {
        job,
        at: real_now(),
        order: &order,
        record: &record,
        seen: None,
        given_up: Some(why),
        event: None,
    };
    store.apply(change).await?;
    Ok(())
}
