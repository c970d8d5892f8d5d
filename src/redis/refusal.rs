//! Classifies errors of Redis and describes them. The text of an error may repeat an argument of the command, which may
//! be a payload. So a description repeats only those parts of the text that cannot hold an argument.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// The beginning of the error if the ACL of Redis refuses a command within a script.
const OF_ACL: &str = "The user executing the script";

/// Returns the first of a pipeline's errors, because the client library has no text for several. Keeps other errors.
fn of_one_command(error: &RedisError) -> RedisError {
    let errors = error.clone().into_server_errors();
    let first = errors.and_then(|errors| errors.first().map(|(_, error)| error.clone().into()));
    first.unwrap_or_else(|| error.clone())
}

/// Whether the connection must be replaced after this error, because its server may no longer be the master with our
/// keys. If the error is only a refusal of one command, the connection is kept.
pub(super) fn leaves_connection(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ExecAbort, NoPerm, NoScript, NotBusy, ResponseError, TryAgain};
    let error = of_one_command(error);
    match error.kind() {
        ErrorKind::Server(ResponseError) => is_read_only(&error),
        ErrorKind::Server(ExecAbort | NoPerm | NoScript | NotBusy | TryAgain | BusyLoading) => false,
        // A master that becomes a replica ends blocking commands with UNBLOCKED.
        ErrorKind::Extension => matches!(error.code(), Some("UNBLOCKED" | "NOAUTH")),
        _ => true,
    }
}

/// Whether no job can be claimed or settled while Redis answers with this error.
pub(super) fn stops_work(error: &RedisError) -> bool {
    let error = of_one_command(error);
    lacks_permission(&error) || standstill(&error).is_some() || missing_command(&error).is_some()
}

/// Describes the error for a command that this Redis lacks, because its host or an administrator renamed or removed it.
fn missing_command(error: &RedisError) -> Option<String> {
    let said = detail(error);
    if said.contains("Unknown Redis command called from script") {
        return Some("a script calls a command that this Redis lacks; run `topup-worker doctor`".to_owned());
    }
    let behind =
        ["unknown command", "unknown subcommand"].iter().find_map(|words| said.strip_prefix(words))?;
    // Repeats only the name of the command, because the arguments after the name may be a payload.
    let name = behind.trim_start().strip_prefix(['\'', '`', '"'])?;
    let name = &name[..name.find(['\'', '`', '"'])?];
    let is_name = name.len() <= 32 && name.bytes().all(|at| at.is_ascii_alphabetic() || b"_|-".contains(&at));
    let name = if is_name { name } else { "that was sent" };
    Some(format!("this Redis has no command {name}: it was renamed or removed, and this service needs it"))
}

/// Maximum characters of an error's text that a description repeats.
const MAX_REPEATED: usize = 120;

/// Returns the part of an error's text that cannot hold an argument: up to the first quotation mark, colon or bracket,
/// with `…` for anything that is not a plain word.
fn said(error: &RedisError) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) {
        // The text is from the client library and may repeat the answer of Redis, which may hold a payload.
        return None;
    }
    let detail = detail(error);
    // If a command in a script fails, Redis 6 puts the script's name before the text, and later versions put it after.
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

/// Describes an error with which a reachable server refuses all work, and the remedy.
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

/// Whether a command within a script failed because the server is a replica.
pub(super) fn is_read_only(error: &RedisError) -> bool {
    is_of_script(error, "-READONLY ")
}

/// Whether a command within a script failed with these words, in the form of Redis 6 (`Error running script …`).
fn is_of_script(error: &RedisError, words: &str) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError)
        && detail(error).starts_with("Error running script")
        && detail(error).contains(words)
}

fn lacks_permission(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || is_of_acl(detail(error))
        || is_of_script(error, OF_ACL)
}

/// Describes an error without repeating an argument of the command, which may be a payload.
pub(crate) fn describe(error: &RedisError) -> String {
    let error = &of_one_command(error);
    match error.kind() {
        // The text is from the operating system or from TLS, and holds no argument.
        ErrorKind::Io => error.to_string(),
        ErrorKind::Parse => "the server speaks another protocol than Redis".to_owned(),
        ErrorKind::AuthenticationFailed => "the user or the password in REDIS_URL is refused".to_owned(),
        ErrorKind::MasterNameNotFoundBySentinel => {
            "no Sentinel knows a running master of the name in REDIS_URL".to_owned()
        }
        ErrorKind::ClusterConnectionNotFound => "no cluster node knows the owner of our keys".to_owned(),
        ErrorKind::Server(ServerErrorKind::Ask) => "the cluster is moving our keys (ASK)".to_owned(),
        ErrorKind::Server(ServerErrorKind::Moved) => "another cluster node has our keys (MOVED)".to_owned(),
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            "the server is a replica now (READONLY); REDIS_URL must lead to its master".to_owned()
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

/// Whether this is an ACL error of a command within a script. Its text names commands, never their arguments.
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

    /// The error that the client library makes of this line of Redis.
    fn error(line: &str) -> RedisError {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap() {
            Value::ServerError(error) => ServerError::into(error),
            other => panic!("{other:?} is no error"),
        }
    }

    #[test]
    fn an_error_of_a_server_that_lost_its_role_or_keys_replaces_the_connection() {
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
    fn an_error_that_refuses_all_work_stops_work_and_says_what_to_do() {
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
    fn a_description_holds_no_argument() {
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
    fn an_unknown_error_is_repeated_without_arguments() {
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
