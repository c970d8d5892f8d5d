use super::super::report::Verdict;
use super::*;

/// The sources of all scripts and of the preludes that they share.
fn sources() -> Vec<&'static str> {
    let shared = [crate::redis::scripts::PRELUDE, crate::queue::LAYOUT, crate::rate_limit::SHARED];
    let own = [
        crate::deployment::scripts::SOURCES,
        crate::maintenance::list_poller::scripts::SOURCES,
        crate::queue::scripts::SOURCES,
        crate::rate_limit::scripts::SOURCES,
    ];
    shared.into_iter().chain(own.concat()).collect()
}

/// Returns the text between each `beginning` and the next quote.
fn quoted<'a>(source: &'a str, beginning: &str) -> BTreeSet<&'a str> {
    source.split(beginning).skip(1).filter_map(|rest| rest.split('\'').next()).collect()
}

#[test]
fn every_command_and_key_of_the_scripts_is_checked() {
    let asked: Vec<&str> = ON_QUEUE.iter().chain(ON_PREFIX).copied().collect();
    let sources = sources().concat();
    let mut commands = quoted(&sources, "redis.call('");
    commands.extend(quoted(&sources, "redis.pcall('"));
    commands.extend(quoted(&sources, "call_with('"));
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        let known = asked.iter().any(|asked| asked.split(' ').next() == Some(command));
        assert!(known, "a script runs {command}: add it, with the keys it is run on");
    }
    for key in quoted(&sources, ".. ':") {
        let known = asked.iter().any(|asked| asked.contains(&format!(":{key}")));
        assert!(known, "a script uses the key :{key}: add what is run on it");
    }
}

fn refused(words: &[(&str, &str, Option<&str>)]) -> Check {
    let mut refused = Refused::default();
    for (command, why, place) in words {
        refused.add(command, why, *place);
    }
    tell(refused, &"{topup}".parse().unwrap(), Check::ok(NAME, "fine"))
}

#[test]
fn refusals_of_every_redis_version_are_understood_and_not_shown() {
    for (command, why) in [
        ("XDEL", "This user has no permissions to run the 'xdel' command"),
        ("XDEL", "NOPERM User bob has no permissions to run the 'xdel' command"),
        ("XDEL", "NOPERM ACL failure in script: User bob has no permissions to run the 'xdel' command"),
        ("XDEL", "ERR The user executing the script can't run this command or subcommand"),
    ] {
        let check = refused(&[(command, why, None)]);
        assert_eq!(check.found, "this user may not run xdel", "{why}");
        let advice = "as an administrator: `redis-cli ACL SETUSER <user> '+xdel'`";
        assert_eq!(check.advice.as_deref(), Some(advice));
    }
    let loading =
        refused(&[("EVALSHA", "NOPERM this user has no permissions to run the 'script|load' command", None)]);
    assert_eq!(loading.found, "this user may not run script|load");
    let channel = "ERR The user executing the script can't publish to the channel mentioned in the command";
    assert!(refused(&[("PUBLISH", channel, None)]).found.contains("channels that begin with {topup}:"));
    let key = "This user has no permissions to access the '{topup}:inbox' key";
    assert_eq!(
        refused(&[("XREAD", key, Some("{topup}:inbox"))]).found,
        "this user may not use the keys {topup}:inbox"
    );
}

#[test]
fn a_redis_that_refuses_all_writes_is_not_reported_as_a_missing_permission() {
    let full = refused(&[("SET", "OOM command not allowed when used memory > 'maxmemory'.", None)]);
    assert_eq!((full.verdict, full.found.as_str()), (Verdict::Fail, "Redis refuses to write (OOM)"));
    assert_eq!(refused(&[]).verdict, Verdict::Ok);
}

#[test]
fn only_the_leading_at_sign_of_a_word_is_replaced_by_the_name() {
    assert_eq!(words("XADD @:events MAXLEN ~ 9 * f v", "{topup}")[1..4], ["{topup}:events", "MAXLEN", "~"]);
}

#[test]
fn the_documented_permissions_are_those_that_the_scripts_need() {
    for page in [include_str!("../../../docs/redis.md"), include_str!("../../../docs/redis.fr.md")] {
        let line = page.lines().find(|line| line.starts_with("ACL SETUSER topup ")).unwrap();
        let allowed: Vec<_> = line.split(' ').filter_map(|word| word.strip_prefix('+')).collect();
        for script in sources() {
            for call in script.split("call('").skip(1).chain(script.split("call_with('").skip(1)) {
                let command = call.split('\'').next().unwrap().to_lowercase();
                // An entry such as `memory|usage` allows one subcommand. A script names only the part before the `|`.
                let is_allowed = allowed.iter().any(|word| word.split('|').next() == Some(&command));
                assert!(is_allowed, "{command} is not in: {line}");
            }
        }
    }
}
