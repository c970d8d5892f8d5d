//! Checks the types of the keys in Redis that begin with the prefix, and counts the waiting messages and jobs.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, pipe};
use topup_jobs::JobName;

use super::super::one_line;
use super::limited;
use super::report::{Check, counted};
use crate::job::WORKER_IS_GONE_AFTER;
use crate::provider::KeyFingerprint;
use crate::redis::Names;

const TYPES: &str = "redis-keys";
const QUEUES: &str = "redis-queues";
const INBOX: &str = "redis-inbox";
pub(super) const NAMES: [&str; 3] = [TYPES, QUEUES, INBOX];
/// Keys per SCAN. A check stops after `MAX_SCANS` scans, because a shared Redis may hold millions of other keys.
const SCANNED: usize = 1_000;
const MAX_SCANS: usize = 1_000;
/// A finding names at most this many of the streams to which producers send by mistake.
const MAX_NAMED: usize = 3;

pub(super) async fn look(
    connection: &MultiplexedConnection,
    names: &Names,
    api_keys: &[KeyFingerprint],
) -> [Check; 3] {
    let types = limited(TYPES, types(connection, names, api_keys));
    let queues = limited(QUEUES, queues(connection, names));
    let (types, queues, inbox) = tokio::join!(types, queues, limited(INBOX, inbox(connection, names)));
    [types, queues, inbox]
}

async fn types(connection: &MultiplexedConnection, names: &Names, api_keys: &[KeyFingerprint]) -> Check {
    let layout = names.layout(&api_keys.iter().map(KeyFingerprint::as_str).collect::<Vec<_>>());
    let mut ask = pipe();
    for (key, _) in &layout {
        ask.cmd("TYPE").arg(key);
    }
    match ask.query_async::<Vec<String>>(&mut connection.clone()).await {
        Ok(found) => judge(&layout, &found),
        Err(_) => Check::warn(
            TYPES,
            "the types of the keys cannot be read here",
            format!("make sure that no other program uses keys that begin with {names}:"),
        ),
    }
}

fn judge(layout: &[(String, &'static str)], found: &[String]) -> Check {
    let wrong = layout.iter().zip(found).filter(|((_, kind), found)| *found != "none" && found != kind);
    let wrong: Vec<_> =
        wrong.map(|((key, kind), _)| format!("{key} must be a {}", spelt_out(kind))).collect();
    let there = found.iter().filter(|found| *found != "none").count();
    match wrong.as_slice() {
        [] => Check::ok(TYPES, format!("{there} of {} keys exist, each with the right type", layout.len())),
        _ => Check::fail(
            TYPES,
            format!("another program has written keys of the service: {}", wrong.join(", ")),
            "rename those keys (`redis-cli RENAME <key> <other name>`), or set a TOPUP_PREFIX of this service's own",
        ),
    }
}

fn spelt_out(kind: &str) -> &str {
    if kind == "zset" { "sorted set" } else { kind }
}

#[derive(Debug, Default)]
struct Waiting {
    workers: u64,
    inbox: u64,
    /// Due and scheduled jobs of all queues.
    jobs: u64,
    dead: Vec<(JobName, u64)>,
    rejected: u64,
}

async fn queues(connection: &MultiplexedConnection, names: &Names) -> Check {
    match count(connection, names).await {
        Ok(waiting) => tell(&waiting),
        Err(error) if error.to_string().contains("WRONGTYPE") => {
            Check::skip(QUEUES, format!("nothing can be counted until {TYPES} is corrected"))
        }
        Err(_) => Check::warn(
            QUEUES,
            "workers and dead letters cannot be counted here",
            "run this as a Redis user that may read every key",
        ),
    }
}

async fn count(connection: &MultiplexedConnection, names: &Names) -> RedisResult<Waiting> {
    let mut connection = connection.clone();
    let (now, _): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
    // Each worker registers in every queue, so the list of one queue contains all workers.
    let polls = names.queue(JobName::PollTopup);
    let mut ask = pipe();
    ask.cmd("ZCOUNT").arg(format!("{polls}:workers"));
    ask.arg(now.saturating_sub(WORKER_IS_GONE_AFTER.as_secs())).arg("+inf");
    ask.cmd("XLEN").arg(names.inbox());
    ask.cmd("XLEN").arg(names.rejected());
    for job in JobName::ALL {
        let queue = names.queue(job);
        ask.cmd("LLEN").arg(format!("{queue}:active"));
        ask.cmd("ZCARD").arg(format!("{queue}:scheduled"));
        ask.cmd("SCARD").arg(format!("{queue}:dead"));
    }
    let counts: Vec<u64> = ask.query_async(&mut connection).await?;
    let mut counts = counts.into_iter();
    let mut next = || counts.next().unwrap_or_default();
    let mut waiting = Waiting { workers: next(), inbox: next(), rejected: next(), ..Waiting::default() };
    for job in JobName::ALL {
        waiting.jobs += next() + next();
        waiting.dead.push((job, next()));
    }
    Ok(waiting)
}

fn tell(waiting: &Waiting) -> Check {
    let Waiting { workers, inbox, jobs, dead, rejected } = waiting;
    let dead: Vec<_> = dead.iter().filter(|(_, count)| *count > 0).collect();
    let dead_letters = dead.iter().map(|(_, count)| count).sum();
    let found = format!(
        "{} at work, {} in the inbox, {} in the queues, {}, {}",
        counted(*workers, "worker"),
        counted(*inbox, "message"),
        counted(*jobs, "job"),
        counted(dead_letters, "dead letter"),
        counted(*rejected, "rejected message"),
    );
    if dead_letters == 0 && *rejected == 0 {
        return Check::ok(QUEUES, found);
    }
    let commands =
        [(dead_letters > 0, "`topup-worker dead-letters`"), (*rejected > 0, "`topup-worker rejected`")];
    let commands: Vec<_> =
        commands.into_iter().filter_map(|(is_due, command)| is_due.then_some(command)).collect();
    let advice = format!("list them with {}; docs/operations.md explains what to do", commands.join(" and "));
    Check::warn(QUEUES, found, advice)
}

/// Searches for streams named `<prefix><inbox>`. A producer writes to such a stream if its Redis client adds a prefix.
async fn inbox(connection: &MultiplexedConnection, names: &Names) -> Check {
    match other_inboxes(connection, names).await {
        Ok(others) => judge_inboxes(&others, names),
        Err(_) => Check::warn(
            INBOX,
            "the names of the keys cannot be read here",
            format!(
                "make sure that producers send to {} without a prefix of their Redis client",
                names.inbox()
            ),
        ),
    }
}

async fn other_inboxes(connection: &MultiplexedConnection, names: &Names) -> RedisResult<Vec<String>> {
    let (mut connection, inbox) = (connection.clone(), names.inbox());
    let (mut others, mut cursor) = (Vec::new(), 0_u64);
    for _ in 0..MAX_SCANS {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(format!("*{inbox}"))
            .arg("COUNT")
            .arg(SCANNED)
            .arg("TYPE")
            .arg("stream");
        let (next, found): (u64, Vec<String>) = scan.query_async(&mut connection).await?;
        others.extend(found.into_iter().filter(|key| *key != inbox));
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    others.sort();
    others.dedup();
    Ok(others)
}

fn judge_inboxes(others: &[String], names: &Names) -> Check {
    let inbox = names.inbox();
    if others.is_empty() {
        return Check::ok(INBOX, format!("producers send to {inbox}; no other stream ends with this name"));
    }
    let some: Vec<String> = others.iter().take(MAX_NAMED).map(|key| one_line(key)).collect();
    Check::fail(
        INBOX,
        format!("a producer sends to {}, which no worker reads", some.join(", ")),
        format!(
            "its Redis client puts a prefix before every key: have it send to {inbox} over a connection without one \
             (jobs/README.md), and send those orders again"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    fn names() -> Names {
        "{topup}".parse().unwrap()
    }

    #[test]
    fn a_key_of_the_wrong_type_is_named_with_what_it_should_be() {
        let layout = names().layout(&["key"]);
        let mut found = vec!["none".to_owned(); layout.len()];
        assert_eq!(judge(&layout, &found).verdict, Verdict::Ok);
        let active = layout.iter().position(|(key, _)| key == "{topup}:poll-topup:active").unwrap();
        "list".clone_into(&mut found[active]);
        assert_eq!(judge(&layout, &found).verdict, Verdict::Ok);
        "zset".clone_into(&mut found[active]);
        let check = judge(&layout, &found);
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.found.ends_with("{topup}:poll-topup:active must be a list"), "{}", check.found);
    }

    #[test]
    fn an_inbox_behind_the_prefix_of_a_client_is_named() {
        assert_eq!(judge_inboxes(&[], &names()).verdict, Verdict::Ok);
        let others = ["laravel_database_{topup}:inbox", "a\n{topup}:inbox", "c", "d"].map(str::to_owned);
        let check = judge_inboxes(&others, &names());
        assert_eq!(check.verdict, Verdict::Fail);
        let named = "laravel_database_{topup}:inbox, a {topup}:inbox, c, which no worker reads";
        assert!(check.found.ends_with(named), "{}", check.found);
    }

    #[test]
    fn dead_letters_and_rejected_messages_are_a_warning_with_commands_that_show_them() {
        let mut waiting = Waiting { workers: 2, inbox: 1, jobs: 3, ..Waiting::default() };
        let check = tell(&waiting);
        assert_eq!(
            check,
            Check::ok(
                QUEUES,
                "2 workers at work, 1 message in the inbox, 3 jobs in the queues, 0 dead letters, 0 rejected messages"
            )
        );
        waiting.dead = vec![(JobName::PollTopup, 0), (JobName::RecheckTopup, 1)];
        waiting.rejected = 4;
        let check = tell(&waiting);
        assert_eq!(check.verdict, Verdict::Warn);
        let advice = check.advice.unwrap();
        assert!(advice.contains("`topup-worker dead-letters` and `topup-worker rejected`"), "{advice}");
        assert!(!advice.contains("poll-topup"), "{advice}");
    }
}
