//! The real Redis of the model test: runs the scripts, tells all that is in it, and hears every wake.

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
/// Where the scripts ask for the time, and all that the test may change in them.
const TIME: &str = "redis.call('TIME')";
/// Every key with its type, the milliseconds it will live and what it holds; then a word on a channel, so that
/// a listener knows that it has heard everything before.
const TELL_ALL: &str = r"
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
    redis.call('PUBLISH', 'told', '')
    return all
";
/// Longest life of the number of a batch.
const BATCH_KEPT_MS: i64 = 3_600_000;
/// Longest life of the note that an order was cancelled.
const CANCELLED_KEPT_MS: i64 = 2 * 86_400_000;

/// The time of the scripts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Time {
    /// The scripts are given this many milliseconds since 1970 for the time.
    Set(u64),
    /// They ask Redis.
    Real,
}

pub(super) struct Ground {
    connection: Connection,
    listener: Connection,
    begins: Time,
    time: Time,
    /// Held for its `Drop`.
    _server: TestRedis,
}

/// What a call brought about.
pub(super) struct Found {
    pub(super) answer: Answer,
    pub(super) snapshot: Snapshot,
    /// How often word was sent, by channel.
    pub(super) wakes: BTreeMap<String, usize>,
    /// First and last millisecond at which the script may have run.
    pub(super) between_ms: (u64, u64),
}

impl Ground {
    pub(super) fn start(time: Time) -> Self {
        let asked = |source: &str| source.matches("'TIME'").count();
        assert_eq!(PRELUDE.matches(TIME).count(), 1, "the test would not control the time of the scripts");
        let elsewhere: usize = SCRIPTS.iter().map(|(_, source)| asked(source)).sum();
        assert_eq!((asked(PRELUDE), elsewhere), (1, 0), "a script asks for the time past the prelude");

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = runtime.block_on(TestRedis::start());
        let client = redis::Client::open(server.url()).unwrap();
        let (mut connection, mut listener) =
            (client.get_connection().unwrap(), client.get_connection().unwrap());
        // Nothing here outlives its Redis, and syncing every write would take most of the time.
        redis::cmd("CONFIG").arg(&["SET", "appendonly", "no"]).exec(&mut connection).unwrap();
        listener.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        listener.req_command(redis::cmd("PSUBSCRIBE").arg("*")).unwrap();
        Self { connection, listener, begins: time, time, _server: server }
    }

    /// Forgets everything, and begins at the same time again.
    pub(super) fn clear(&mut self) {
        self.time = self.begins;
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

    /// Real time passes a hundred times faster than set time would: the test waits for it.
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

    /// Real time cannot be set.
    pub(super) fn set_back(&mut self, ms: u64) {
        if let Time::Set(now) = &mut self.time {
            *now -= ms;
        }
    }

    /// Carries a call out and looks at everything.
    pub(super) fn run(&mut self, call: &Call) -> Result<Found, String> {
        let before = self.now_ms();
        let answer = match call.script() {
            Some(name) => self.run_script(name, call)?,
            None => self.run_commands(call)?,
        };
        let after = self.now_ms();
        let all = redis::cmd("EVAL").arg(TELL_ALL).arg(0).query(&mut self.connection);
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
            let word = array(self.listener.recv_response().unwrap());
            let channel: String = redis::from_redis_value(word.into_iter().nth(2).unwrap()).unwrap();
            if channel == "told" {
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

/// A key as `TELL_ALL` tells it; an error where it lives for another time than it should.
fn key(told: Value) -> Result<(String, Content), String> {
    let mut told = array(told).into_iter();
    let (key, kind, lives_ms, value) =
        (told.next().unwrap(), told.next().unwrap(), told.next().unwrap(), told.next().unwrap());
    let key: String = redis::from_redis_value(key).unwrap();
    let kind: String = redis::from_redis_value(kind).unwrap();
    let lives_ms: i64 = redis::from_redis_value(lives_ms).unwrap();
    let lives_well = if key.contains(":settled:") {
        (BATCH_KEPT_MS / 2..=BATCH_KEPT_MS).contains(&lives_ms)
    } else if key.contains(":cancelled:") {
        (CANCELLED_KEPT_MS / 2..=CANCELLED_KEPT_MS).contains(&lives_ms)
    } else {
        lives_ms == -1
    };
    if !lives_well {
        return Err(format!("{key} lives for {lives_ms} ms"));
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
