//! The real Redis of the model test: runs the scripts, reads all keys and receives the wake-ups.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{Connection, ConnectionLike as _, Value};

use super::call::Call;
use super::snapshot::{Answer, Content, Fields, Snapshot};
use crate::support::redis::TestRedis;

const PRELUDE: &str = concat!(
    include_str!("../../../src/redis/lua/prelude.lua"),
    include_str!("../../../src/queue/lua/layout.lua")
);
const SCRIPTS: [(&str, &str); 14] = [
    ("acquit", include_str!("../../../src/queue/lua/acquit.lua")),
    ("claim", include_str!("../../../src/queue/lua/claim.lua")),
    ("dead_discard", include_str!("../../../src/queue/lua/dead_discard.lua")),
    ("dead_replay", include_str!("../../../src/queue/lua/dead_replay.lua")),
    ("give_back", include_str!("../../../src/queue/lua/give_back.lua")),
    ("hasten", include_str!("../../../src/queue/lua/hasten.lua")),
    ("heartbeat", include_str!("../../../src/queue/lua/heartbeat.lua")),
    ("identify", include_str!("../../../src/queue/lua/identify.lua")),
    ("intake", include_str!("../../../src/queue/lua/intake.lua")),
    ("leave", include_str!("../../../src/queue/lua/leave.lua")),
    ("put_right", include_str!("../../../src/queue/lua/put_right.lua")),
    ("reap", include_str!("../../../src/queue/lua/reap.lua")),
    ("restore", include_str!("../../../src/queue/lua/restore.lua")),
    ("settle", include_str!("../../../src/queue/lua/settle.lua")),
];
/// The read of the time in the scripts. The test replaces only this.
const TIME: &str = "redis.call('TIME')";
/// Returns every key with its type, its TTL in ms and its content. It then publishes to a channel, so that the listener
/// knows that it has received all earlier messages.
const DUMP_ALL: &str = r"
    local read = {
        string = function(key) return redis.call('GET', key) end,
        list = function(key) return redis.call('LRANGE', key, 0, -1) end,
        set = function(key) return redis.call('SMEMBERS', key) end,
        zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
        hash = function(key) return redis.call('HGETALL', key) end,
        stream = function(key) return redis.call('XRANGE', key, '-', '+') end,
    }
    local all = {}
    for n, key in ipairs(redis.call('KEYS', '*')) do
        local kind = redis.call('TYPE', key).ok
        all[n] = { key, kind, redis.call('PTTL', key), read[kind](key) }
    end
    redis.call('PUBLISH', 'dumped', '')
    return all
";
/// Longest TTL of the number of a batch.
const BATCH_KEPT_MS: i64 = 3_600_000;
/// Longest TTL of the mark of a cancelled order.
const CANCELLED_KEPT_MS: i64 = 2 * 86_400_000;

/// The time of the scripts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Time {
    /// The test sets the time, in milliseconds since 1970.
    Set(u64),
    /// The scripts read the clock of Redis.
    Real,
}

pub(super) struct System {
    connection: Connection,
    listener: Connection,
    start_time: Time,
    time: Time,
    /// Held for its `Drop`.
    _server: TestRedis,
}

/// The answer to a call, and the state of Redis after it.
pub(super) struct Found {
    pub(super) answer: Answer,
    pub(super) snapshot: Snapshot,
    /// Number of wake-ups by channel.
    pub(super) wakes: BTreeMap<String, usize>,
    /// First and last millisecond at which the script may have run.
    pub(super) between_ms: (u64, u64),
}

impl System {
    pub(super) fn start(time: Time) -> Self {
        let time_calls = |source: &str| source.matches("'TIME'").count();
        assert_eq!(PRELUDE.matches(TIME).count(), 1, "the test would not control the time of the scripts");
        let elsewhere: usize = SCRIPTS.iter().map(|(_, source)| time_calls(source)).sum();
        assert_eq!((time_calls(PRELUDE), elsewhere), (1, 0), "a script reads the time without the prelude");

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = runtime.block_on(TestRedis::start());
        let client = redis::Client::open(server.url()).unwrap();
        let (mut connection, mut listener) =
            (client.get_connection().unwrap(), client.get_connection().unwrap());
        // No test restarts this Redis, and syncing every write would take most of the time.
        redis::cmd("CONFIG").arg(&["SET", "appendonly", "no"]).exec(&mut connection).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        listener.req_command(redis::cmd("PSUBSCRIBE").arg("*")).unwrap();
        Self { connection, listener, start_time: time, time, _server: server }
    }

    /// Deletes everything and sets the time back to the start.
    pub(super) fn clear(&mut self) {
        self.time = self.start_time;
        redis::pipe().cmd("FLUSHALL").cmd("SCRIPT").arg("FLUSH").exec(&mut self.connection).unwrap();
    }

    pub(super) fn now_ms(&mut self) -> u64 {
        match self.time {
            Time::Set(ms) => ms,
            Time::Real => {
                let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(&mut self.connection).unwrap();
                seconds * 1000 + micros / 1000
            }
        }
    }

    /// Durations in real time are a hundred times shorter, since the test has to wait for them.
    pub(super) fn scaled(&self, ms: u64) -> u64 {
        match self.time {
            Time::Set(_) => ms,
            Time::Real => ms.div_ceil(100),
        }
    }

    pub(super) fn pass(&mut self, ms: u64) {
        let passing = self.scaled(ms);
        match &mut self.time {
            Time::Set(now) => *now += passing,
            Time::Real => std::thread::sleep(Duration::from_millis(passing)),
        }
    }

    /// Sets the time back; real time does not change.
    pub(super) fn set_back(&mut self, ms: u64) {
        if let Time::Set(now) = &mut self.time {
            *now -= ms;
        }
    }

    /// Runs a call and reads all keys.
    pub(super) fn run(&mut self, call: &Call) -> Result<Found, String> {
        let before = self.now_ms();
        let answer = match call.script() {
            Some(name) => self.run_script(name, call)?,
            None => self.run_commands(call)?,
        };
        let after = self.now_ms();
        let all = redis::cmd("EVAL").arg(DUMP_ALL).arg(0).query(&mut self.connection);
        let snapshot =
            array(all.map_err(|error| error.to_string())?).into_iter().map(key).collect::<Result<_, _>>()?;
        Ok(Found { answer, snapshot, wakes: self.wakes(), between_ms: (before, after) })
    }

    fn run_script(&mut self, name: &str, call: &Call) -> Result<Answer, String> {
        let (_, script) = SCRIPTS.iter().find(|(script, _)| *script == name).unwrap();
        let prelude = match self.time {
            Time::Set(ms) => {
                PRELUDE.replace(TIME, &format!("{{ '{}', '{}' }}", ms / 1000, ms % 1000 * 1000 + 999))
            }
            Time::Real => PRELUDE.to_owned(),
        };
        let (keys, arguments) = call.arguments();
        let mut command = redis::cmd("EVAL");
        command.arg(prelude + script).arg(keys.len()).arg(keys).arg(arguments);
        command.query(&mut self.connection).map(answer).map_err(|error| format!("the script failed: {error}"))
    }

    fn run_commands(&mut self, call: &Call) -> Result<Answer, String> {
        for words in call.commands() {
            let mut command = redis::cmd(&words[0]);
            command.arg(&words[1..]).exec(&mut self.connection).map_err(|error| error.to_string())?;
        }
        Ok(Answer::Nothing)
    }

    fn wakes(&mut self) -> BTreeMap<String, usize> {
        let mut wakes = BTreeMap::new();
        loop {
            let message = array(self.listener.recv_response().unwrap());
            let channel: String = redis::from_redis_value(message.into_iter().nth(2).unwrap()).unwrap();
            if channel == "dumped" {
                return wakes;
            }
            *wakes.entry(channel).or_default() += 1;
        }
    }
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        other => panic!("an array was expected, not {other:?}"),
    }
}

fn answer(value: Value) -> Answer {
    match value {
        Value::Nil => Answer::Nothing,
        Value::Int(number) => Answer::Number(number),
        Value::Array(values) => Answer::List(values.into_iter().map(answer).collect()),
        other => Answer::Text(redis::from_redis_value(other).unwrap()),
    }
}

fn fields(value: Value) -> Fields {
    let texts: Vec<String> = redis::from_redis_value(value).unwrap();
    texts.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

/// A key as `DUMP_ALL` returns it, or an error if its TTL is wrong.
fn key(entry: Value) -> Result<(String, Content), String> {
    let mut entry = array(entry).into_iter();
    let (key, kind, ttl_ms, value) =
        (entry.next().unwrap(), entry.next().unwrap(), entry.next().unwrap(), entry.next().unwrap());
    let key: String = redis::from_redis_value(key).unwrap();
    let kind: String = redis::from_redis_value(kind).unwrap();
    let ttl_ms: i64 = redis::from_redis_value(ttl_ms).unwrap();
    let has_valid_ttl = if key.contains(":settled:") {
        (BATCH_KEPT_MS / 2..=BATCH_KEPT_MS).contains(&ttl_ms)
    } else if key.contains(":cancelled:") {
        (CANCELLED_KEPT_MS / 2..=CANCELLED_KEPT_MS).contains(&ttl_ms)
    } else {
        ttl_ms == -1
    };
    if !has_valid_ttl {
        return Err(format!("{key} has a TTL of {ttl_ms} ms"));
    }
    let content = match kind.as_str() {
        "string" => Content::Text(redis::from_redis_value(value).unwrap()),
        "list" => Content::List(redis::from_redis_value(value).unwrap()),
        "set" => Content::Set(redis::from_redis_value(value).unwrap()),
        "hash" => Content::Hash(fields(value)),
        "zset" => Content::Scores(
            fields(value).into_iter().map(|(member, score)| (member, score.parse().unwrap())).collect(),
        ),
        "stream" => {
            let entry = |entry| {
                let mut parts = array(entry).into_iter();
                let id = redis::from_redis_value(parts.next().unwrap()).unwrap();
                (id, fields(parts.next().unwrap()))
            };
            Content::Stream(array(value).into_iter().map(entry).collect())
        }
        other => return Err(format!("{key} is a {other}")),
    };
    Ok((key, content))
}
