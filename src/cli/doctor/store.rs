//! The store: whether the database opens, can be written, has the right tables, and whether the key opens
//! what is stored. Nothing is made, migrated or committed, and no card leaves the function that opens it.

use super::limited;
use super::report::Check;
use crate::orders::{
    CardCipher, DecryptionError, InspectError, Inspector, StoreError, Tables, database_file,
};

const FILE: &str = "store";
const TABLES: &str = "store-tables";
const KEY: &str = "store-key";

pub(super) async fn look(url: &str, cipher: &CardCipher) -> [Check; 3] {
    let file = database_file(url).map(|file| file.display().to_string());
    let file = file.unwrap_or_else(|| "the file of DATABASE_URL".to_owned());
    let opened = tokio::time::timeout(super::LIMIT, Inspector::open(url)).await;
    let mut inspector = match opened {
        Ok(Ok(Some(inspector))) => inspector,
        Ok(Ok(None)) => {
            return [
                Check::ok(FILE, format!("{file} is not there yet; `run` makes it")),
                Check::skip(TABLES, "there is no database yet"),
                Check::skip(KEY, "there is no database yet"),
            ];
        }
        Ok(Err(error)) => return unopened(unusable(&file, &error)),
        Err(_elapsed) => {
            let found = format!("{file} is not opened in time");
            return unopened(Check::fail(
                FILE,
                found,
                "look at the disk: it may be a network share that hangs",
            ));
        }
    };
    let write = limited(FILE, async { write(&file, inspector.try_write().await) }).await;
    let tables = inspector.tables().await;
    let key = limited(KEY, async {
        match inspector.try_key(cipher).await {
            // Tables that are not made yet hold no card.
            Err(StoreError::Database(_)) if matches!(tables, Ok(Tables::ToMigrate)) => {
                Check::skip(KEY, "there is no table of orders yet")
            }
            tried => key(&tried),
        }
    })
    .await;
    inspector.close().await;
    [write, judge(tables.as_ref().ok().copied()), key]
}

fn unopened(check: Check) -> [Check; 3] {
    let skip = |name| Check::skip(name, "the database cannot be opened");
    [check, skip(TABLES), skip(KEY)]
}

fn unusable(file: &str, error: &InspectError) -> Check {
    let (found, advice) = match error {
        InspectError::Address(_) => {
            ("DATABASE_URL cannot be read".to_owned(), "write sqlite:// and the path of a file")
        }
        InspectError::Folder(error) if error.kind() == std::io::ErrorKind::NotFound => (
            format!("{file} cannot be made: its folder does not exist"),
            "make the folder, or correct DATABASE_URL; sqlite:/// begins an absolute path",
        ),
        InspectError::Folder(_) => (
            format!("{file} cannot be made in its folder"),
            "let the user of this program write to the folder, or correct DATABASE_URL",
        ),
        InspectError::Open(error) if code(error).as_deref() == Some("26") => {
            (format!("{file} is no SQLite database"), "move that file away, or correct DATABASE_URL")
        }
        InspectError::Open(_) => (
            format!("{file} cannot be opened"),
            "let the user of this program read and write the file and its folder",
        ),
    };
    Check::fail(FILE, found, advice)
}

fn write(file: &str, written: Result<bool, StoreError>) -> Check {
    match written {
        Ok(true) => Check::ok(FILE, format!("{file} opens and can be written (nothing was left in it)")),
        Ok(false) => Check::warn(
            FILE,
            format!("{file} is held by a process in the middle of a write"),
            "look for a worker that is frozen, and let it go on or kill it",
        ),
        Err(StoreError::Database(error)) if code(&error).as_deref() == Some("13") => {
            Check::fail(FILE, format!("{file} cannot grow: the disk is full"), "make room on that disk")
        }
        Err(error) => Check::fail(
            FILE,
            format!("{file} cannot be written{}", in_its_words(&error)),
            "let the user of this program write to the file and to its folder, and look at the disk",
        ),
    }
}

/// SQLite's own words, which hold neither a value nor a path.
fn in_its_words(error: &StoreError) -> String {
    let StoreError::Database(error) = error else { return String::new() };
    error.as_database_error().map(|error| format!(": {}", error.message())).unwrap_or_default()
}

/// SQLite's own number of the error, without what it adds to it.
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
        Some(Tables::Newer) => Check::fail(
            TABLES,
            "made by a newer topup-worker",
            "run that version, or a newer one; this one refuses to start on them",
        ),
        Some(Tables::Foreign) => Check::fail(
            TABLES,
            "not those of this program, or half migrated",
            "set DATABASE_URL to a file of this program's own, or bring the last backup back",
        ),
        None => Check::fail(TABLES, "cannot be read", "look at the file with `sqlite3 <file> .schema`"),
    }
}

fn key(tried: &Result<bool, StoreError>) -> Check {
    match tried {
        Ok(true) => Check::ok(KEY, "ENCRYPTION_KEY opens the stored cards"),
        Ok(false) => Check::ok(KEY, "no card is stored yet"),
        Err(StoreError::Decryption(DecryptionError::Key)) => Check::fail(
            KEY,
            "ENCRYPTION_KEY is not the one that the stored cards were encrypted with",
            "set the key of this database again; with another one the stored cards cannot be read, and new \
             ones would be stored under a second key",
        ),
        Err(StoreError::Decryption(DecryptionError::Form)) => Check::fail(
            KEY,
            "a stored card is not in the documented form",
            "another program has written internet_orders.card_code; bring it into the form of the README",
        ),
        Err(error) => Check::fail(
            KEY,
            format!("the stored cards cannot be read{}", in_its_words(error)),
            "mend what is said of the tables first",
        ),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::super::report::Verdict::{Fail, Ok, Skip, Warn};
    use super::*;
    use crate::orders::SqliteStore;

    async fn verdicts(url: &str, key: &SecretString) -> [super::super::report::Verdict; 3] {
        look(url, &CardCipher::new(key).unwrap()).await.map(|check| check.verdict)
    }

    #[tokio::test]
    async fn a_database_is_judged_and_left_as_it_is() {
        let key = CardCipher::generate_key();
        let folder = tempfile::tempdir().unwrap();
        let names =
            || std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let url = |name: &str| format!("sqlite://{}", folder.path().join(name).display());

        assert_eq!(verdicts(&url("new.db"), &key).await, [Ok, Skip, Skip]);
        assert_eq!(verdicts(&url("no-such-folder/new.db"), &key).await, [Fail, Skip, Skip]);
        let left: Vec<std::ffi::OsString> = names();
        assert!(left.is_empty(), "{left:?}");

        drop(SqliteStore::open(&url("good.db"), CardCipher::new(&key).unwrap()).await.unwrap());
        assert_eq!(verdicts(&url("good.db"), &key).await, [Ok, Ok, Ok]);

        std::fs::write(folder.path().join("empty.db"), "").unwrap();
        assert_eq!(verdicts(&url("empty.db"), &key).await, [Ok, Warn, Skip]);
        assert_eq!(std::fs::read(folder.path().join("empty.db")).unwrap(), b"");

        std::fs::write(folder.path().join("text.db"), "some other file that is no database".repeat(9))
            .unwrap();
        assert_eq!(verdicts(&url("text.db"), &key).await, [Fail, Skip, Skip]);
    }
}
