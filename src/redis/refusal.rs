//! What an error of Redis says, to a program and to people.
//!
//! The text that Redis sends may repeat an argument of the command, and with that a payload. So the words
//! here are made from the kind of the error; only what can hold no argument is repeated.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// How what access control says of a command within a script begins.
const OF_ACL: &str = "The user executing the script";

/// What Redis says of the first command of a pipeline that failed: the client has no words for all of them.
fn of_one_command(error: &RedisError) -> RedisError {
    let errors = error.clone().into_server_errors();
    let first = errors.and_then(|errors| errors.first().map(|(_, error)| error.clone().into()));
    first.unwrap_or_else(|| error.clone())
}

/// Whether the connection on which a server says this is to be left for a new one, to wherever the master is
/// by then. It is not for what the right server says of one command.
pub(super) fn leaves_connection(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ExecAbort, NoPerm, NoScript, NotBusy, ResponseError, TryAgain};
    let error = of_one_command(error);
    match error.kind() {
        ErrorKind::Server(ResponseError) => is_read_only(&error),
        ErrorKind::Server(ExecAbort | NoPerm | NoScript | NotBusy | TryAgain | BusyLoading) => false,
        // A master that became a replica ends the commands that block with this.
        ErrorKind::Extension => matches!(error.code(), Some("UNBLOCKED" | "NOAUTH")),
        _ => true,
    }
}

/// Whether no job can move while Redis refuses this.
pub(super) fn stops_work(error: &RedisError) -> bool {
    let error = of_one_command(error);
    lacks_permission(&error) || standstill(&error).is_some() || missing_command(&error).is_some()
}

/// The command that this Redis does not have, in words: a provider or an administrator has renamed or removed it.
fn missing_command(error: &RedisError) -> Option<String> {
    let said = detail(error);
    if said.contains("Unknown Redis command called from script") {
        return Some(
            "a script calls a command that this Redis does not have; `topup-worker doctor` names it"
                .to_owned(),
        );
    }
    let behind =
        ["unknown command", "unknown subcommand"].iter().find_map(|words| said.strip_prefix(words))?;
    // What follows the name are arguments.
    let name = behind.trim_start().strip_prefix(['\'', '`', '"'])?;
    let name = &name[..name.find(['\'', '`', '"'])?];
    let is_name = name.len() <= 32 && name.bytes().all(|at| at.is_ascii_alphabetic() || b"_|-".contains(&at));
    let name = if is_name { name } else { "that was sent" };
    Some(format!(
        "this Redis has no command {name}: it was renamed or removed there, and must be allowed for this service"
    ))
}

/// Most characters that are repeated of what a server says.
const MAX_REPEATED: usize = 120;

/// What a server says, in its own words, as far as no argument can stand in them: up to the first quotation mark, colon
/// or bracket, with `…` for what is not a plain word.
fn said(error: &RedisError) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
        // Words of the client, which may show the answer.
        return None;
    }
    let detail = detail(error);
    // Of an error within a script: Redis 6 says before it in which script, and later ones say so behind it.
    let detail = detail
        .rsplit_once("@user_script")
        .and_then(|(_, said)| said.split_once(": "))
        .map_or(detail, |it| it.1);
    let detail = detail.split(" script: ").next().unwrap_or_default();
    let detail = detail.strip_prefix("-ERR ").unwrap_or(detail);
    let plain =
        detail.split(|at: char| "'\"`:={}[]()<>".contains(at) || at.is_control()).next().unwrap_or_default();
    let is_plain = |word: &&str| {
        let letters = word.trim_end_matches(['.', ',', ';']);
        letters.bytes().all(|at| at.is_ascii_alphabetic() || b"-_/".contains(&at))
    };
    let words = plain.split_whitespace().map(|word| if is_plain(&word) { word } else { "…" });
    let code = error.code().filter(|code| *code != "ERR" && code.bytes().all(|at| at.is_ascii_uppercase()));
    let words: String = code.into_iter().chain(words).collect::<Vec<_>>().join(" ");
    let words: String = words.chars().take(MAX_REPEATED).collect();
    (!words.is_empty()).then(|| format!("Redis says: {words}"))
}

/// What keeps a server that is there from doing anything for us, in words that say what to do.
fn standstill(error: &RedisError) -> Option<&'static str> {
    let is = |code: &str| match error.kind() {
        ErrorKind::Extension => error.code() == Some(code),
        _ => is_of_script(error, &format!("-{code} ")),
    };
    [
        ("OOM", "Redis is full (OOM): raise its maxmemory"),
        ("MISCONF", "Redis cannot write to its disk (MISCONF): its log says why"),
        ("NOREPLICAS", "Redis has fewer replicas in step than min-replicas-to-write asks for (NOREPLICAS)"),
        ("NOAUTH", "Redis wants a password, and REDIS_URL has none (NOAUTH)"),
        (
            "WRONGTYPE",
            "a key of this service holds a value of another type (WRONGTYPE): another program uses the same TOPUP_PREFIX; \
             `topup-worker doctor` names the key",
        ),
        ("BUSY", "Redis runs a script that does not end (BUSY)"),
        ("UNKILLABLE", "Redis runs a script that does not end (UNKILLABLE)"),
    ]
    .into_iter()
    .find_map(|(code, words)| is(code).then_some(words))
}

/// Whether a server says within a script that it is a replica.
pub(super) fn is_read_only(error: &RedisError) -> bool {
    is_of_script(error, "-READONLY ")
}

/// Whether Redis 6 has wrapped these words of an error that happened within a script.
fn is_of_script(error: &RedisError, words: &str) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
        && detail(error).starts_with("Error running script")
        && detail(error).contains(words)
}

/// Whether the user of Redis lacks a permission.
fn lacks_permission(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || is_of_acl(detail(error))
        || is_of_script(error, OF_ACL)
}

/// The error in words without any argument of the command, which may carry a payload.
pub(crate) fn describe(error: &RedisError) -> String {
    let error = &of_one_command(error);
    match error.kind() {
        // From the operating system or from TLS; no command is known there.
        ErrorKind::Io => error.to_string(),
        ErrorKind::Parse => "what answers there speaks another protocol than Redis".to_owned(),
        ErrorKind::AuthenticationFailed => "the user or the password in REDIS_URL is refused".to_owned(),
        ErrorKind::MasterNameNotFoundBySentinel => {
            "no Sentinel knows a master of the name in REDIS_URL that is up".to_owned()
        }
        ErrorKind::ClusterConnectionNotFound => "the cluster's nodes name no owner of our keys".to_owned(),
        ErrorKind::Server(ServerErrorKind::Ask) => {
            "the cluster moves our keys to another node (ASK)".to_owned()
        }
        ErrorKind::Server(ServerErrorKind::Moved) => {
            "another node of the cluster has our keys (MOVED)".to_owned()
        }
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            "the server has become a replica (READONLY)".to_owned()
        }
        _ if lacks_permission(error) => {
            format!("NOPERM: the user in REDIS_URL lacks a permission: {}", detail(error))
        }
        kind => {
            let known = standstill(error).map(str::to_owned).or_else(|| missing_command(error));
            known.or_else(|| said(error)).unwrap_or_else(|| format!("{kind:?}"))
        }
    }
}

/// What access control says of a command within a script. It names commands, never their arguments.
fn is_of_acl(detail: &str) -> bool {
    detail.starts_with(OF_ACL) || detail.starts_with("ACL failure in script")
}

fn detail(error: &RedisError) -> &str {
    error.detail().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use redis::{ServerError, Value};

    use super::*;

    /// What the client makes of this line of Redis.
    fn error(line: &str) -> RedisError {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap() {
            Value::ServerError(error) => ServerError::into(error),
            other => panic!("{other:?} is no error"),
        }
    }

    #[test]
    fn what_a_server_says_that_is_not_the_one_any_more_leaves_it() {
        for line in [
            "READONLY You can't write against a read only replica.",
            "ERR Error running script (call to f_1): @user_script:4: -READONLY You can't write against",
            "MOVED 3999 127.0.0.1:6381",
            "ASK 3999 127.0.0.1:6381",
            "CLUSTERDOWN Hash slot not served",
            "MASTERDOWN Link with MASTER is down",
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            "NOAUTH Authentication required.",
        ] {
            assert!(leaves_connection(&error(line)), "{line}");
        }
        for line in [
            "ERR value is not an integer",
            "WRONGTYPE Operation against a key",
            "NOSCRIPT No matching script",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "LOADING Redis is loading the dataset in memory",
            "NOPERM this user has no permissions to run the 'xread' command",
            "OOM command not allowed when used memory > 'maxmemory'.",
        ] {
            assert!(!leaves_connection(&error(line)), "{line}");
        }
    }

    #[test]
    fn a_server_that_does_nothing_for_us_stops_work_and_the_words_say_what_to_do() {
        for (line, words) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", "raise its maxmemory"),
            (
                "ERR Error running script (call to f_1): @user_script:4: -OOM command not",
                "raise its maxmemory",
            ),
            ("MISCONF Errors writing to the AOF file: No space left on device", "its log says why"),
            ("NOREPLICAS Not enough good replicas to write.", "min-replicas-to-write"),
            ("NOAUTH Authentication required.", "wants a password"),
            ("BUSY Redis is busy running a script.", "does not end"),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                "another program uses the same",
            ),
            ("ERR unknown command 'EVALSHA', with args beginning with: 'x'", "no command EVALSHA"),
            ("ERR unknown command `SCRIPT`, with args beginning with: `LOAD`, ", "no command SCRIPT"),
            (
                "ERR Unknown Redis command called from script script: f_1, on @user_script:4.",
                "`topup-worker doctor`",
            ),
            (
                "ERR Error running script (call to f_1): @user_script:4: @user_script: 4: The user executing the \
                 script can't run this command or subcommand",
                "lacks a permission",
            ),
        ] {
            let error = error(line);
            assert!(stops_work(&error) && describe(&error).contains(words), "{line}: {}", describe(&error));
        }
        for line in ["ERR value is not an integer", "READONLY You can't write", "LOADING Redis is loading"] {
            assert!(!stops_work(&error(line)), "{line}");
        }
    }

    #[test]
    fn the_words_hold_no_argument() {
        let unknown = describe(&error("ERR unknown command 'XADD', with args beginning with: '0661998877'"));
        assert!(unknown.contains("no command XADD: it was renamed"), "{unknown}");
        for line in [
            "ERR unknown command '0661998877', with args beginning with: 'x'",
            "ERR unknown command `XADD`, with args beginning with: `0661998877`, ",
            "ERR syntax error near 0661998877",
            "ERR 0661998877",
        ] {
            assert!(!describe(&error(line)).contains("0661998877"), "{line}: {}", describe(&error(line)));
        }
        assert_eq!(describe(&error("ERR syntax error near 'Amina'")), "Redis says: syntax error near");
        let forbidden = describe(&error("NOPERM this user has no permissions to run the 'xread' command"));
        assert!(forbidden.contains("NOPERM") && forbidden.contains("'xread'"), "{forbidden}");
    }

    #[test]
    fn what_a_server_says_that_is_not_known_here_is_repeated_without_arguments() {
        for (line, words) in [
            (
                "ERR max daily request limit exceeded. Limit: 10000, Usage: 10001.",
                "max daily request limit exceeded. Limit",
            ),
            ("ERR max number of clients reached", "max number of clients reached"),
            ("ERR upstream failure", "upstream failure"),
            (
                "ERR value is not an integer or out of range script: f_1, on @user_script:4.",
                "value is not an integer or out of range",
            ),
            ("ERR Error running script (call to f_1): @user_script:4: -ERR no such key", "no such key"),
            (
                "ERR Protocol error, got 0661998877 as reply type byte",
                "Protocol error, got … as reply type byte",
            ),
            ("ERR no argument amina@example.dz of أمينة", "no argument … of …"),
            ("CLUSTERDOWN The cluster is down", "CLUSTERDOWN The cluster is down"),
            (
                "LOADING Redis is loading the dataset in memory",
                "LOADING Redis is loading the dataset in memory",
            ),
            ("CROSSSLOT Keys in request don't hash to the same slot", "CROSSSLOT Keys in request don"),
            ("QUOTA the plan allows no more", "QUOTA the plan allows no more"),
        ] {
            assert_eq!(describe(&error(line)), format!("Redis says: {words}"), "{line}");
        }
        let long = format!("ERR {}", "word ".repeat(1000));
        assert!(describe(&error(&long)).chars().count() < 150);
    }
}
