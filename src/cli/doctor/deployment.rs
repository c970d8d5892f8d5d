//! Checks that a worker with these settings could run beside the running workers. That worker must know the layout of
//! the Redis keys, use the same database, and share encryption keys, so that each worker can decrypt every card.

use redis::RedisResult;
use redis::aio::MultiplexedConnection;

use super::report::{Check, counted};
use crate::deployment::{LAYOUT, Shared, keyrings};
use crate::orders::CardCipher;
use crate::redis::Names;

const LAYOUT_CHECK: &str = "redis-layout";
const STORE: &str = "redis-store";
const KEYS: &str = "redis-encryption";
const NAMES: [&str; 3] = [LAYOUT_CHECK, STORE, KEYS];

/// The layout and the database that Redis records, and the encryption key fingerprints of every running worker.
pub(super) type Seen = (Shared, Vec<Vec<String>>);

pub(super) async fn read(connection: &MultiplexedConnection, names: &Names) -> RedisResult<Seen> {
    let mut connection = connection.clone();
    Ok((Shared::read(&mut connection, names).await?, keyrings(&mut connection, names).await?))
}

/// The id of the database of `DATABASE_URL`, to compare with the id that Redis holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Own<'a> {
    Is(&'a str),
    /// There is no database yet, or its tables are too old to hold an id.
    NotThere,
    /// The database cannot be read.
    Unknown,
}

/// Compares this host's settings with `seen`, which is `None` if Redis cannot be reached.
pub(super) fn look(
    seen: Option<&RedisResult<Seen>>,
    store: Own<'_>,
    cipher: &CardCipher,
    names: &Names,
) -> [Check; 3] {
    match seen {
        None => NAMES.map(|name| Check::skip(name, "Redis cannot be reached")),
        Some(Err(_)) => NAMES.map(|name| {
            let advice = "do what redis-permissions and redis-keys advise first";
            Check::warn(name, "cannot be read here", advice)
        }),
        Some(Ok((shared, others))) => [
            layout(shared.layout),
            same_store(shared.store.as_deref(), store, names),
            same_keys(others, cipher, names),
        ],
    }
}

fn layout(found: u64) -> Check {
    match found {
        0 => Check::ok(LAYOUT_CHECK, "no worker has run here yet"),
        found if found > LAYOUT => Check::fail(
            LAYOUT_CHECK,
            format!("a newer topup-worker wrote the keys (layout {found}; this version knows {LAYOUT})"),
            "run that version; this one refuses to start beside it",
        ),
        found => Check::ok(LAYOUT_CHECK, format!("layout {found}, which this version knows")),
    }
}

fn same_store(of_jobs: Option<&str>, own: Own<'_>, names: &Names) -> Check {
    match (of_jobs, own) {
        (None, _) => Check::ok(STORE, "the jobs belong to no database yet"),
        (Some(of_jobs), Own::Is(own)) if of_jobs == own => {
            Check::ok(STORE, "the jobs belong to the database of DATABASE_URL")
        }
        (Some(_), Own::Unknown) => Check::skip(STORE, "the database cannot be read; see the check `store`"),
        _ => Check::fail(
            STORE,
            format!("the jobs under {names} belong to another database than that of DATABASE_URL"),
            "set DATABASE_URL as the other workers have it, or TOPUP_PREFIX to one of this worker's own; if this \
             database takes the other's place for good, stop every worker and run `topup-worker adopt-store`",
        ),
    }
}

fn same_keys(others: &[Vec<String>], cipher: &CardCipher, names: &Names) -> Check {
    let own = cipher.fingerprints();
    let fits = |other: &&Vec<String>| {
        let theirs_is_known = other.first().is_some_and(|current| own.contains(&current.as_str()));
        theirs_is_known && other.iter().any(|known| known == cipher.fingerprint())
    };
    let differing = others.len() - others.iter().filter(fits).count();
    if differing == 0 {
        let running = counted(others.len() as u64, "worker");
        return Check::ok(KEYS, format!("{running} running; each decrypts what another encrypts"));
    }
    Check::fail(
        KEYS,
        format!("{} under {names} has other keys", counted(differing as u64, "worker")),
        "give every worker the same ENCRYPTION_KEY and, during a change, the other key in ENCRYPTION_KEYS_PREVIOUS, in \
         the order of docs/operations.md; a killed worker still counts here for 25 minutes",
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict::{Fail, Ok as Good, Skip, Warn};
    use super::*;

    #[test]
    fn a_worker_that_would_be_refused_fails_a_check() {
        let names: Names = "{topup}".parse().unwrap();
        let (one, other) = (CardCipher::generate_key(), CardCipher::generate_key());
        let alone = CardCipher::new(&one).unwrap();
        let both = CardCipher::new(&other).unwrap().with_previous(&one).unwrap();
        let ring = |cipher: &CardCipher| cipher.fingerprints().iter().map(|&key| key.to_owned()).collect();
        let seen = |layout, store: &str, others: Vec<Vec<String>>| {
            Some(Ok((Shared { layout, store: Some(store.to_owned()) }, others)))
        };
        let verdicts = |seen: Option<RedisResult<Seen>>, store| {
            look(seen.as_ref(), store, &alone, &names).map(|check| check.verdict)
        };
        assert_eq!(verdicts(seen(LAYOUT, "a", vec![ring(&alone)]), Own::Is("a")), [Good; 3]);
        assert_eq!(verdicts(Some(Ok((Shared::default(), vec![]))), Own::NotThere), [Good; 3]);
        assert_eq!(verdicts(seen(LAYOUT + 1, "a", vec![]), Own::Is("a")), [Fail, Good, Good]);
        assert_eq!(verdicts(seen(LAYOUT, "a", vec![]), Own::Is("b")), [Good, Fail, Good]);
        assert_eq!(verdicts(seen(LAYOUT, "a", vec![]), Own::Unknown), [Good, Skip, Good]);
        assert_eq!(
            verdicts(seen(LAYOUT, "a", vec![]), Own::NotThere),
            [Good, Fail, Good],
            "the database has no tables yet"
        );
        let differs = seen(LAYOUT, "a", vec![ring(&alone), ring(&both)]);
        assert_eq!(
            verdicts(differs, Own::Is("a")),
            [Good, Good, Fail],
            "another worker encrypts with a key that is not known here"
        );
        assert_eq!(verdicts(None, Own::Unknown), [Skip; 3]);
        let error = redis::RedisError::from(std::io::Error::other("away"));
        assert_eq!(verdicts(Some(Err(error)), Own::Unknown), [Warn; 3]);
    }
}
