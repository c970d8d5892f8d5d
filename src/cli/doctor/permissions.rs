//! Checks that this user of Redis may run every command of the service, on the keys that the service uses. Redis 7
//! answers this with `ACL DRYRUN`, which executes nothing. On an older Redis, or if the user may not run `ACL`, a
//! script tries each command on a separate key, `{topup}:doctor:<ulid>`, and deletes the key before it ends. The script
//! can neither subscribe nor find out which other keys are forbidden. The lists below repeat the service's commands; a
//! test checks that they contain every command of the scripts.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value, pipe};
use topup_jobs::JobName;

use super::report::Check;
use crate::redis::Names;

pub(super) const NAME: &str = "redis-permissions";

const NO_REPLICAS: &str = "NOREPLICAS";

/// Commands on each queue; `@` stands for the name of the queue.
const ON_QUEUE: &[&str] = &[
    "PUBLISH @:wake w",
    "RPUSH @:active i",
    "LPUSH @:active i",
    "LPOP @:active 1",
    "LLEN @:active",
    "EXISTS @:active",
    "ZADD @:scheduled 1 i",
    "ZSCORE @:scheduled i",
    "ZREM @:scheduled i",
    "ZRANGE @:scheduled 0 0",
    "ZRANGEBYSCORE @:scheduled -inf 1",
    "ZREMRANGEBYRANK @:scheduled 0 0",
    "HSETNX @:data i p",
    "HSET @:data i p",
    "HMGET @:data i",
    "HEXISTS @:data i",
    "HDEL @:data i",
    "HSET @:meta:i status s",
    "HMGET @:meta:i attempts faults crashes",
    "HINCRBY @:meta:i crashes 1",
    "HSETNX @:meta:i lost_with w",
    "HDEL @:meta:i crashes",
    "EXISTS @:meta:i",
    "DEL @:meta:i",
    "SADD @:dead i",
    "SREM @:dead i",
    "SMISMEMBER @:dead i",
    "SMEMBERS @:dead",
    "SSCAN @:dead 0",
    "SADD @:inflight:w i",
    "SREM @:inflight:w i",
    "SMEMBERS @:inflight:w",
    "SMISMEMBER @:inflight:w i",
    "SCARD @:inflight:w",
    "SPOP @:inflight:w 1",
    "EXISTS @:inflight:w",
    "DEL @:inflight:w",
    "ZADD @:workers 1 w",
    "ZSCORE @:workers w",
    "ZREM @:workers w",
    "ZRANGEBYSCORE @:workers -inf 1",
    "GET @:settled:w",
    "SET @:settled:w 1 EX 1",
    "DEL @:settled:w",
    "ZREM @:scheduled i",
    "SET @:cancelled:i 1 EX 1",
    "EXISTS @:cancelled:i",
    "DEL @:cancelled:i",
];
/// Commands on keys that belong to no queue; `@` stands for the prefix of the keys.
const ON_PREFIX: &[&str] = &[
    "TIME",
    "GET @:layout",
    "SET @:layout 1",
    "GET @:store",
    "SET @:store s",
    "ZADD @:keyrings 1 w",
    "ZRANGE @:keyrings 0 -1 WITHSCORES",
    "ZSCORE @:keyrings w",
    "DEL @:keyrings",
    "ZREM @:keyrings w",
    "HMGET @:clock offset at agreed",
    "HSET @:clock agreed 1",
    "XRANGE @:inbox - + COUNT 1",
    "XDEL @:inbox 1-1",
    "XADD @:inbox * f v",
    "XADD @:rejected * f v",
    "XLEN @:rejected",
    "XTRIM @:rejected MAXLEN 1",
    "MEMORY USAGE @:rejected SAMPLES 0",
    "INCRBY @:rejected-dropped 1",
    "GET @:rejected-dropped",
    "XRANGE @:rejected - + COUNT 1",
    "XDEL @:rejected 1-1",
    "XADD @:events MAXLEN ~ 9 * f v",
    "PTTL @:budget:breaker",
    "GET @:budget:breaker",
    "SET @:budget:breaker 1 PX 1",
    "PEXPIRE @:budget:breaker 1",
    "PTTL @:budget:breaker:k",
    "GET @:budget:breaker:k",
    "SET @:budget:breaker:k 1 PX 1",
    "SET @:budget:half-open 1",
    "EXISTS @:budget:half-open",
    "DEL @:budget:half-open",
    "SET @:budget:verified:k 1 PX 1",
    "EXISTS @:budget:verified:k",
    "DEL @:budget:verified:k",
    "PTTL @:budget:refused:k",
    "GET @:budget:refused:k",
    "SET @:budget:refused:k 1 PX 1",
    "SET @:budget:knows:k 1 PX 1",
    "EXISTS @:budget:knows:k",
    "SADD @:budget:unknown:k o",
    "SCARD @:budget:unknown:k",
    "SISMEMBER @:budget:unknown:k o",
    "PEXPIRE @:budget:unknown:k 1",
    "DEL @:budget:unknown:k",
    "PTTL @:budget:mistrusted:k",
    "GET @:budget:mistrusted:k",
    "SET @:budget:mistrusted:k 1 PX 1",
    "DEL @:budget:mistrusted:k",
    "SET @:budget:mistrust-rounds:k 1 PX 1",
    "GET @:budget:mistrust-rounds:k",
    "EXISTS @:budget:mistrust-rounds:k",
    "INCR @:budget:mistrust-rounds:k",
    "DEL @:budget:mistrust-rounds:k",
    "SET @:budget:probe 1 PX 1",
    "GET @:budget:probe",
    "EXISTS @:budget:probe",
    "PTTL @:budget:probe",
    "PEXPIRE @:budget:probe 1",
    "DEL @:budget:probe",
    "SET @:budget:probe:k 1 PX 1",
    "DEL @:budget:probe:k",
    "INCR @:budget:failures",
    "PEXPIRE @:budget:failures 1",
    "DEL @:budget:failures",
    "SET @:budget:failing-since 1 PX 1 NX",
    "GET @:budget:failing-since",
    "DEL @:budget:failing-since",
    "SET @:budget:mistrust-reported:k 1 PX 1 NX",
    "ZADD @:budget:failed-orders 1 o",
    "ZCARD @:budget:failed-orders",
    "ZREMRANGEBYSCORE @:budget:failed-orders -inf 1",
    "PEXPIRE @:budget:failed-orders 1",
    "DEL @:budget:failed-orders",
    "SET @:budget:breaker-reported 1 NX",
    "DEL @:budget:breaker-reported",
    "ZADD @:budget:able-workers 1 w",
    "ZREM @:budget:able-workers w",
    "ZREMRANGEBYSCORE @:budget:able-workers -inf 1",
    "EXISTS @:budget:able-workers",
    "INCR @:budget:permit-number",
    "GET @:budget:next-slot-at:k",
    "SET @:budget:next-slot-at:k 1 PX 1",
    "ZADD @:budget:window-log:k 1 t",
    "PEXPIRE @:budget:window-log:k 1",
    "ZCARD @:budget:window-log:k",
    "ZRANGE @:budget:window-log:k 0 0",
    "ZRANGEBYSCORE @:budget:window-log:k -inf 1",
    "ZREMRANGEBYSCORE @:budget:window-log:k -inf 1",
    "ZADD @:budget:in-flight:k 1 t",
    "PEXPIRE @:budget:in-flight:k 1",
    "ZCARD @:budget:in-flight:k",
    "ZREM @:budget:in-flight:k t",
    "ZREMRANGEBYSCORE @:budget:in-flight:k -inf 1",
    "ZADD @:budget:waiting-new LT 1 o",
    "ZCARD @:budget:waiting-new",
    "ZMSCORE @:budget:waiting-new o",
    "ZRANGE @:budget:waiting-new 0 0",
    "ZRANK @:budget:waiting-new o",
    "ZREM @:budget:waiting-new o",
    "ZADD @:budget:waiting-backlog LT 1 o",
    "ZSCORE @:budget:waiting-backlog o",
    "EXISTS @:budget:waiting-backlog",
    "INCR @:budget:new-since-backlog",
    "GET @:budget:new-since-backlog",
    "DEL @:budget:new-since-backlog",
    "ZADD @:budget:eligible-at 1 o",
    "ZMSCORE @:budget:eligible-at o",
    "ZRANGEBYSCORE @:budget:eligible-at -inf 1",
    "ZREM @:budget:eligible-at o",
    "HSETNX @:budget:waiting-since o 1",
    "HGET @:budget:waiting-since o",
    "HDEL @:budget:waiting-since o",
    "HSET @:budget:created-at o 1",
    "HDEL @:budget:created-at o",
    "HGETALL @:budget:created-at",
    "HLEN @:budget:created-at",
    "SADD @:budget:details-missing o",
    "SREM @:budget:details-missing o",
    "SCARD @:budget:details-missing",
    "SMISMEMBER @:budget:details-missing o",
    "ZADD @:budget:seen-in-list 1 o",
    "ZSCORE @:budget:seen-in-list o",
    "DEL @:budget:seen-in-list",
    "ZREMRANGEBYSCORE @:budget:seen-in-list -inf 1",
    "HSET @:budget:list-state from 1",
    "HMGET @:budget:list-state from",
    "DEL @:budget:list-state",
    "SET @:budget:list-lock 1 PX 1 NX",
    "SET @:budget:list-lock 1 PX 1 XX",
    "PTTL @:budget:list-lock",
    "EXISTS @:budget:list-lock",
    "DEL @:budget:list-lock",
    "SET @:budget:list-reserved 1 PX 1",
    "PTTL @:budget:list-reserved",
    "GET @:budget:list-reserved",
    "PEXPIRE @:budget:list-reserved 1",
    "DEL @:budget:list-reserved",
    "SET @:budget:list-served 1 PX 1",
    "DEL @:budget:list-served",
    "SET @:budget:details-requested:o 1 PX 1 NX",
    "SET @:budget:list-disabled 1 PX 1",
    "EXISTS @:budget:list-disabled",
    "PTTL @:budget:list-disabled",
    "GET @:budget:list-disabled",
    "PEXPIRE @:budget:list-disabled 1",
    "ZREM @:scheduled o",
    "HINCRBY @:budget:completions 0 1",
    "HGETALL @:budget:completions",
    "HSET @:budget:completions 0 1",
];
/// Commands that run only with a scaled clock.
const ON_ANCHOR: &[&str] = &["SETNX @:time-anchor 1", "GET @:time-anchor"];
/// Commands on each queue that only `ACL DRYRUN` checks, because a script cannot try them.
const OUTSIDE: &[&str] = &[
    "EVALSHA 0 1 @:active",
    "SCRIPT LOAD s",
    "SUBSCRIBE @:wake",
    "PING",
    "CLIENT TRACKING ON BCAST PREFIX @:inbox",
];

/// Script that tries each command on one key and deletes the key afterwards.
const PROBE: &str = "
-- KEYS[1]  a key that nothing else uses
-- ARGV     for each command: the number of its words, then each word
-- Returns, for each refused command, its name and the error of Redis.
local refused, at = {}, 1
local function try(...)
    local answer = redis.pcall(...)
    local err = type(answer) == 'table' and answer.err
    if err then
        refused[#refused + 1] = (...)
        refused[#refused + 1] = err
    end
    return not err
end
-- A user that may not delete the key could not remove it after a command, so then no command is tried.
if not try('DEL', KEYS[1]) then
    return refused
end
while at <= #ARGV do
    local words = tonumber(ARGV[at])
    try(unpack(ARGV, at + 1, at + words))
    redis.call('DEL', KEYS[1])
    at = at + words + 1
end
return refused
";

#[derive(Debug, Default, PartialEq, Eq)]
struct Refused {
    commands: BTreeSet<String>,
    keys: BTreeSet<String>,
    channels: bool,
    /// The error code, such as `OOM`, if Redis refuses a write for a reason other than a missing permission.
    writes: Option<String>,
}

pub(super) async fn look(connection: &MultiplexedConnection, names: &Names, time_scale: f64) -> Check {
    let scaled = (time_scale - 1.0).abs() > f64::EPSILON;
    let probe = format!("{names}:doctor:{}", ulid::Ulid::generate());
    if let Ok(mut refused) = ask(connection, names, scaled).await {
        if lacks_replicas(connection, &probe).await {
            refused.writes = Some(NO_REPLICAS.to_owned());
        }
        let known = Check::ok(NAME, "this user may run every command on every key that the service uses");
        return tell(refused, names, known);
    }
    let tried = match attempt(connection, &probe, scaled).await {
        Ok(refused) => refused,
        Err(error) => {
            let words = error.to_string();
            if words.contains("access one of the keys") || words.contains("to access the '") {
                let tried = Check::warn(
                    NAME,
                    format!("cannot be tried: this user may not use keys that begin with {names}:doctor:"),
                    format!("allow it every key and channel of the service: `~{names}:* &{names}:*`"),
                );
                return tell(keys_out_of_reach(connection, names).await, names, tried);
            }
            let mut refused = Refused::default();
            refused.add("EVALSHA", &words, None);
            refused
        }
    };
    let known =
        Check::ok(NAME, "this user may run every command that the service uses (tried on a key of its own)");
    tell(tried, names, known)
}

/// Asks Redis with `ACL DRYRUN` which commands this user may run. Fails if Redis lacks `DRYRUN` or forbids `ACL`.
async fn ask(connection: &MultiplexedConnection, names: &Names, scaled: bool) -> RedisResult<Refused> {
    let mut connection = connection.clone();
    let user: String = redis::cmd("ACL").arg("WHOAMI").query_async(&mut connection).await?;
    let mut commands: Vec<Vec<String>> = Vec::new();
    for job in JobName::ALL {
        let queue = names.queue(job);
        commands.extend(ON_QUEUE.iter().chain(OUTSIDE).map(|command| words(command, &queue)));
    }
    let anchor = if scaled { ON_ANCHOR } else { &[] };
    commands.extend(ON_PREFIX.iter().chain(anchor).map(|command| words(command, &names.to_string())));
    let mut dry_run = pipe();
    for command in &commands {
        dry_run.cmd("ACL").arg("DRYRUN").arg(&user).arg(command);
    }
    let answers: Vec<Value> = dry_run.query_async(&mut connection).await?;
    let mut refused = Refused::default();
    for (command, answer) in commands.iter().zip(answers) {
        if let Value::BulkString(words) = answer {
            let place = command.iter().find(|word| word.starts_with(&names.to_string()));
            refused.add(&command[0], &String::from_utf8_lossy(&words), place.map(String::as_str));
        }
    }
    Ok(refused)
}

async fn attempt(connection: &MultiplexedConnection, probe: &str, scaled: bool) -> RedisResult<Refused> {
    let script = Script::new(PROBE);
    let mut call = script.key(probe);
    let anchor = if scaled { ON_ANCHOR } else { &[] };
    for command in ON_QUEUE.iter().chain(ON_PREFIX).chain(anchor) {
        let words = command.split(' ').map(|word| if word.starts_with('@') { probe } else { word });
        let words: Vec<_> = words.collect();
        call.arg(words.len()).arg(words);
    }
    let answer: Vec<String> = call.invoke_async(&mut connection.clone()).await?;
    let mut refused = Refused::default();
    for refusal in answer.chunks_exact(2) {
        refused.add(&refusal[0], &refusal[1], None);
    }
    Ok(refused)
}

/// Tries a write to see whether Redis has too few replicas. `INFO` does not show how many replicas Redis requires.
async fn lacks_replicas(connection: &MultiplexedConnection, probe: &str) -> bool {
    let mut write = redis::cmd("SET");
    write.arg(probe).arg("").arg("PX").arg(1);
    let answer = write.query_async::<Value>(&mut connection.clone()).await;
    answer.is_err_and(|error| error.code() == Some(NO_REPLICAS))
}

/// Returns the keys that this user may not use. The check deletes a nonexistent field of each key and so changes none.
async fn keys_out_of_reach(connection: &MultiplexedConnection, names: &Names) -> Refused {
    let prefix = names.to_string();
    let of_queues = JobName::ALL.into_iter().flat_map(|job| {
        let queue = names.queue(job);
        ON_QUEUE.iter().flat_map(move |command| words(command, &queue))
    });
    let keys = of_queues.chain(ON_PREFIX.iter().flat_map(|command| words(command, &prefix)));
    let keys: BTreeSet<String> = keys.filter(|word| word.starts_with(&prefix)).collect();
    let absent = &ulid::Ulid::generate().to_string();
    let answers = keys.iter().map(|key| async move {
        let answer =
            redis::cmd("HDEL").arg(key).arg(absent).query_async::<Value>(&mut connection.clone()).await;
        (key, answer)
    });
    let mut refused = Refused::default();
    for (key, answer) in join_all(answers).await {
        if let Err(error) = answer
            && is_forbidden(&error)
        {
            refused.add("HDEL", &error.to_string(), Some(key));
        }
    }
    refused
}

/// Splits a command into words and replaces a leading `@` by the name.
fn words(command: &str, name: &str) -> Vec<String> {
    command.split(' ').map(|word| word.replacen('@', name, usize::from(word.starts_with('@')))).collect()
}

impl Refused {
    /// Adds one refusal. Its text `why` varies by version of Redis and may name the user, so only the name of the
    /// command or the error code is taken from it.
    fn add(&mut self, command: &str, why: &str, place: Option<&str>) {
        if why.contains("permissions to run the") || why.contains("can't run this command") {
            // Newer versions of Redis quote the command, such as `script|load`; older versions do not name it.
            let quoted = why.split('\'').nth(1).filter(|_| why.contains("to run the '"));
            let plain =
                |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"|-".contains(&byte));
            self.commands.insert(quoted.filter(plain).unwrap_or(command).to_ascii_lowercase());
        } else if why.contains("channel") {
            self.channels = true;
        } else if why.contains("permissions to access") || why.contains("can't access") {
            self.keys.extend(place.map(str::to_owned));
        } else {
            let code = why.split([' ', ':']).find(|word| word.bytes().all(|byte| byte.is_ascii_uppercase()));
            self.writes = Some(code.filter(|code| !code.is_empty()).unwrap_or("an error").to_owned());
        }
    }
}

fn tell(refused: Refused, names: &Names, known: Check) -> Check {
    let Refused { commands, keys, channels, writes } = refused;
    let list = |of: &BTreeSet<String>| of.iter().cloned().collect::<Vec<_>>().join(", ");
    let mut found = Vec::new();
    let mut rules = Vec::new();
    if !commands.is_empty() {
        found.push(format!("may not run {}", list(&commands)));
        rules.extend(commands.iter().map(|command| format!("+{command}")));
    }
    if !keys.is_empty() {
        let (some, more) = (keys.iter().take(3).cloned().collect(), keys.len().saturating_sub(3));
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        found.push(format!("may not use the keys {}{more}", list(&some)));
        rules.push(format!("~{names}:*"));
    }
    if channels {
        found.push(format!("may not use the channels that begin with {names}:"));
        rules.push(format!("&{names}:*"));
    }
    if !found.is_empty() {
        let advice = format!("as an administrator: `redis-cli ACL SETUSER <user> '{}'`", rules.join("' '"));
        return Check::fail(NAME, format!("this user {}", found.join(", ")), advice);
    }
    match writes {
        Some(code) if code == NO_REPLICAS => Check::fail(
            NAME,
            "Redis refuses to write: it has fewer replicas than `min-replicas-to-write`",
            "bring the replicas back, or lower `min-replicas-to-write` in redis.conf",
        ),
        Some(code) => Check::fail(
            NAME,
            format!("Redis refuses to write ({code})"),
            "follow the advice of the other Redis checks, and read the log of Redis",
        ),
        None => known,
    }
}

pub(super) fn is_forbidden(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

#[cfg(test)]
#[path = "permissions_tests.rs"]
mod tests;
