//! Checks the store: the database opens, can be written and has the right tables, and the encryption keys decrypt the
//! stored cards. Nothing is created, migrated or committed, and no card leaves the function that decrypts it.

use super::postgres::STORE;
use super::report::{Check, Verdict};
use super::{limited, postgres};
use crate::orders::{
    CardCipher, DatabaseKind, InspectError, Inspector, Sample, StoreError, Tables, place, rehearse,
};

const TABLES: &str = "store-tables";
const KEY: &str = "store-key";

/// Runs the checks of the store. Also returns the id of the store, if its tables hold an id.
pub(super) async fn look(url: &str, cipher: &CardCipher) -> (Vec<Check>, Option<String>) {
    let place = place(url).unwrap_or_else(|| "the database of DATABASE_URL".to_owned());
    let server = DatabaseKind::of(url) == Some(DatabaseKind::Postgres);
    let opened = tokio::time::timeout(super::LIMIT, Inspector::open(url)).await;
    let mut inspector = match opened {
        Ok(Ok(Some(inspector))) => inspector,
        Ok(Ok(None)) => {
            let checks = vec![
                Check::ok(STORE, format!("{place} does not exist yet; `run` creates it")),
                Check::skip(TABLES, "there is no database yet"),
                Check::skip(KEY, "there is no database yet"),
            ];
            return (checks, None);
        }
        Ok(Err(error)) => return (unopened(unusable(&place, &error), server), None),
        Err(_elapsed) => return (unopened(silent(&place, server), server), None),
    };
    let tables = inspector.tables().await;
    let is_usable = matches!(tables, Ok(Tables::UpToDate | Tables::Newer));
    let written = limited(STORE, async { write(&place, inspector.try_write().await, is_usable) }).await;
    let mut checks = vec![if is_usable && written.verdict == Verdict::Ok {
        limited(STORE, async { write(&place, rehearse(url, cipher).await.map(|()| true), true) }).await
    } else {
        written
    }];
    if server {
        checks.push(limited(postgres::VERSION, postgres::version(&mut inspector)).await);
    }
    checks.push(judge(tables.as_ref().ok().copied()));
    let marks = inspector.marks().await.ok();
    let key = limited(KEY, async {
        if let Some(marks) = &marks
            && marks.keys.iter().any(|noted| !cipher.fingerprints().contains(&noted.as_str()))
        {
            return a_key_is_missing();
        }
        match inspector.try_keys(cipher).await {
            // The tables do not exist yet, so there is no card to decrypt.
            Err(StoreError::Database(_)) if matches!(tables, Ok(Tables::ToMigrate)) => {
                Check::skip(KEY, "there is no table of orders yet")
            }
            tried => key(&tried),
        }
    });
    checks.push(key.await);
    if server {
        checks.push(limited(postgres::CLOCK, postgres::clock(&mut inspector)).await);
    }
    inspector.close().await;
    (checks, marks.map(|marks| marks.store_id))
}

fn unopened(check: Check, server: bool) -> Vec<Check> {
    let others: &[&str] =
        if server { &[postgres::VERSION, TABLES, KEY, postgres::CLOCK] } else { &[TABLES, KEY] };
    let skipped = others.iter().map(|name| Check::skip(name, "the database cannot be opened"));
    std::iter::once(check).chain(skipped).collect()
}

fn silent(place: &str, server: bool) -> Check {
    let advice = if server {
        "check the host and the port of DATABASE_URL, and the network between"
    } else {
        "check the disk: it may be a network share that hangs"
    };
    Check::fail(STORE, format!("{place} does not open in time"), advice)
}

fn unusable(file: &str, error: &InspectError) -> Check {
    let (found, advice) = match error {
        InspectError::Connect(error) => return postgres::unreachable(file, error),
        InspectError::Unfit(StoreError::Unfit(why)) => return unfit(file, why),
        InspectError::Unfit(_) => (format!("{file} could not be inspected"), "check the log of PostgreSQL"),
        InspectError::Address => (
            "DATABASE_URL cannot be read".to_owned(),
            "write sqlite:// and the path of a file, or postgres://user:password@host:port/database",
        ),
        InspectError::Missing(_) => (format!("{file} does not exist"), "correct DATABASE_URL"),
        InspectError::Folder(error) if error.kind() == std::io::ErrorKind::NotFound => (
            format!("{file} cannot be created: its folder does not exist"),
            "create the folder, or correct DATABASE_URL; sqlite:/// begins an absolute path",
        ),
        InspectError::Folder(_) => (
            format!("{file} cannot be created in its folder"),
            "let the user of this program write to the folder, or correct DATABASE_URL",
        ),
        InspectError::Disk(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
            (format!("the file system of {file} is read-only"), "make it writable, or correct DATABASE_URL")
        }
        InspectError::Disk(_) => (format!("the disk of {file} is full"), "free space or inodes on that disk"),
        InspectError::Open(error) if code(error).as_deref() == Some("26") => {
            (format!("{file} is not an SQLite database"), "move that file away, or correct DATABASE_URL")
        }
        InspectError::Log(StoreError::LogRemoved) => (
            format!("the write-ahead log of {file} (-wal or -shm) was removed while workers have it open"),
            "stop every worker, so that each writes its changes into the file, and start them again",
        ),
        InspectError::Log(StoreError::Replaced) => (
            format!("{file} was replaced by another file while workers have the former one open"),
            "restore the former file; or stop every worker, remove the files with -wal and -shm behind the name, \
             and start them again",
        ),
        InspectError::Log(StoreError::OpenElsewhere(_)) => (
            format!("another process has {file} open, but not with the files beside it"),
            "stop every process that has it open, which writes its data into the file",
        ),
        InspectError::Log(StoreError::SecondName(_)) => (
            format!("{file} has a second name (a hard link)"),
            "remove the other name: processes that use different names would destroy the database",
        ),
        InspectError::Log(StoreError::Note(note)) => (
            format!("{note} cannot be used"),
            "stop every worker, remove that file, and let the user of the workers write to its folder",
        ),
        InspectError::Log(_) => (
            format!("the write-ahead log beside {file} belongs to another file that was at this path before"),
            "stop every worker, and move the files with -wal and -shm behind the name away",
        ),
        InspectError::Open(_) => (
            format!("{file} cannot be opened"),
            "let the user of this program read and write the file and its folder",
        ),
    };
    Check::fail(STORE, found, advice)
}

/// Splits the error text at the first `; ` into the finding and the advice.
fn unfit(place: &str, why: &str) -> Check {
    let (found, advice) = why.split_once("; ").unwrap_or((why, "check the database"));
    Check::fail(STORE, format!("{place}: {found}"), advice.to_owned())
}

/// `is_made` says whether the tables exist.
fn write(file: &str, written: Result<bool, StoreError>, is_made: bool) -> Check {
    match written {
        Ok(true) => Check::ok(STORE, format!("{file} opens and can be written (nothing was left in it)")),
        Ok(false) => Check::warn(
            STORE,
            format!("{file} is held by a process in the middle of a write"),
            "find the frozen worker, and resume or kill it",
        ),
        Err(StoreError::Unfit(why)) => unfit(file, &why),
        Err(StoreError::NotStored(table)) => Check::fail(
            STORE,
            format!("{file} does not store what is written to its table {table}, and returns no error"),
            "remove the trigger, rule or view that suppresses or alters it",
        ),
        Err(StoreError::OtherColumn) => Check::fail(
            STORE,
            format!("a column of {file} has another type than it was created with"),
            "undo the change of its tables",
        ),
        Err(error) if error.is_of_definitions() => Check::fail(
            STORE,
            format!("{file} refuses a row of an order{}", in_its_words(&error)),
            "undo what was changed in its tables: triggers, rules, constraints, renamed columns, or added columns that \
             must have a value",
        ),
        Err(StoreError::Database(error)) if postgres::code(&error).is_some() => {
            postgres::unwritable(file, &error, is_made)
        }
        Err(error) if error.is_of_full_disk() => Check::fail(
            STORE,
            format!("{file} cannot grow: the disk is full"),
            "free space or inodes on that disk",
        ),
        Err(error) => Check::fail(
            STORE,
            format!("{file} cannot be written{}", in_its_words(&error)),
            "let the user of this program write to the file and to its folder, and check the disk",
        ),
    }
}

/// The database's error message, which holds neither a value nor a path.
fn in_its_words(error: &StoreError) -> String {
    let StoreError::Database(error) = error else { return String::new() };
    error.as_database_error().map(|error| format!(": {}", error.message())).unwrap_or_default()
}

/// SQLite's primary error code: the low byte of the extended code.
fn code(error: &sqlx::Error) -> Option<String> {
    let code: i64 = error.as_database_error()?.code()?.parse().ok()?;
    Some((code & 0xff).to_string())
}

fn judge(tables: Option<Tables>) -> Check {
    match tables {
        Some(Tables::UpToDate) => Check::ok(TABLES, "up to date"),
        Some(Tables::ToMigrate) => Check::warn(
            TABLES,
            "not up to date",
            "run `topup-worker migrate`; `run` does the same at its start",
        ),
        Some(Tables::Newer) => {
            Check::ok(TABLES, "a newer topup-worker has added to them; this version can use them")
        }
        Some(Tables::TooNew) => Check::fail(
            TABLES,
            "changed by a newer topup-worker",
            "run that version, or a newer one; this one refuses to start on them",
        ),
        Some(Tables::Foreign) => Check::fail(
            TABLES,
            "not those of this program, or half migrated",
            "set DATABASE_URL to a database of this program's own, or restore the last backup",
        ),
        None => {
            Check::fail(TABLES, "cannot be read", "check them with `sqlite3 <file> .schema` or psql's `\\d`")
        }
    }
}

fn a_key_is_missing() -> Check {
    Check::fail(
        KEY,
        "ENCRYPTION_KEY is not the one that the stored cards were encrypted with, or not the only one",
        "set the key that the workers of this database have or, if you are changing it, that key in \
         ENCRYPTION_KEYS_PREVIOUS; `topup-worker rekey` reports when no card needs it any more",
    )
}

fn key(tried: &Result<Sample, StoreError>) -> Check {
    match tried {
        Ok(Sample { cards: 0, .. }) => Check::ok(KEY, "no card is stored yet"),
        Ok(sample) if sample.reads_none() => Check::fail(
            KEY,
            "ENCRYPTION_KEY is not the one that the stored cards were encrypted with",
            "set the key of this database again or, if you are changing it, that key in \
             ENCRYPTION_KEYS_PREVIOUS; without it the stored cards cannot be read",
        ),
        Ok(Sample { cards, unreadable, .. }) if *unreadable > 0 => Check::fail(
            KEY,
            format!("no key decrypts {unreadable} of the {cards} cards that were tried"),
            "`topup-worker rekey` names their orders; add their key to ENCRYPTION_KEYS_PREVIOUS",
        ),
        Ok(Sample { malformed, .. }) if *malformed > 0 => Check::fail(
            KEY,
            "a stored card is not in the documented form",
            "another program has written internet_orders.card_code; bring it into the form of docs/operations.md",
        ),
        Ok(Sample { previous: 0, .. }) => Check::ok(KEY, "ENCRYPTION_KEY decrypts the stored cards"),
        Ok(Sample { cards, previous, .. }) => Check::warn(
            KEY,
            format!("only a previous key decrypts {previous} of the {cards} cards that were tried"),
            "run `topup-worker rekey`, and keep ENCRYPTION_KEYS_PREVIOUS until it reports so",
        ),
        Err(error) => Check::fail(
            KEY,
            format!("the stored cards cannot be read{}", in_its_words(error)),
            "follow the advice of the check `store-tables` first",
        ),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::super::report::Verdict::{Fail, Ok, Skip, Warn};
    use super::*;
    use crate::orders;

    async fn verdicts(url: &str, key: &SecretString) -> Vec<super::super::report::Verdict> {
        let (checks, _) = look(url, &CardCipher::new(key).unwrap()).await;
        checks.into_iter().map(|check| check.verdict).collect()
    }

    #[tokio::test]
    async fn checks_leave_the_database_unchanged() {
        let key = CardCipher::generate_key();
        let folder = tempfile::tempdir().unwrap();
        let names =
            || std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let url = |name: &str| format!("sqlite://{}", folder.path().join(name).display());

        assert_eq!(verdicts(&url("new.db"), &key).await, [Ok, Skip, Skip]);
        assert_eq!(verdicts(&url("no-such-folder/new.db"), &key).await, [Fail, Skip, Skip]);
        let left: Vec<std::ffi::OsString> = names();
        assert!(left.is_empty(), "{left:?}");

        drop(orders::open(&url("good.db"), CardCipher::new(&key).unwrap()).await.unwrap());
        assert_eq!(verdicts(&url("good.db"), &key).await, [Ok, Ok, Ok]);

        std::fs::write(folder.path().join("empty.db"), "").unwrap();
        assert_eq!(verdicts(&url("empty.db"), &key).await, [Ok, Warn, Skip]);
        assert_eq!(std::fs::read(folder.path().join("empty.db")).unwrap(), b"");

        std::fs::write(folder.path().join("text.db"), "some other file that is no database".repeat(9))
            .unwrap();
        assert_eq!(verdicts(&url("text.db"), &key).await, [Fail, Skip, Skip]);
    }
}
