//! Replaces error texts that are not the database's own.
//!
//! A trigger or function of the operator may put any text in its error, even a phone number, and an error about a value
//! repeats that value. Such a text must not reach a log.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use sqlx::error::{DatabaseError, ErrorKind};
use sqlx::postgres::PgDatabaseError;

use super::sql::migrations::SQLITE;

/// SQLite's code for an error in a statement, such as an unknown table.
pub(super) const SQLITE_ERROR: &str = "1";
/// SQLite's `SQLITE_CONSTRAINT_TRIGGER`: `RAISE` in a trigger.
const RAISED_SQLITE: &str = "1811";

/// A database error with its text replaced, because a trigger, function or constraint of the operator caused it.
#[derive(Debug)]
pub(super) struct Withheld {
    text: String,
    code: String,
}

/// Replaces the text of an error if it may contain a value of an order, or a name that the operator has chosen.
pub(super) fn withhold(error: sqlx::Error) -> sqlx::Error {
    let withheld = error.as_database_error().and_then(|error| {
        let code = error.code()?.into_owned();
        let text = match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) if is_foreign(error, &code) => {
                format!("a trigger or function of the database has failed (code {code}; its log may have the text)")
            }
            None if code == RAISED_SQLITE || names_another(error, &code) => {
                format!("a trigger of the database has failed (code {code})")
            }
            _ => return None,
        };
        Some(Withheld { text, code })
    });
    withheld.map_or(error, |withheld| sqlx::Error::Database(Box::new(withheld)))
}

/// Whether a trigger or function of the operator caused this error.
pub(super) fn is_raised(error: &dyn DatabaseError) -> bool {
    error.try_downcast_ref::<Withheld>().is_some()
}

/// Whether code of the operator caused the error: it occurred in a function, is of PL/pgSQL (class P0), or is about a
/// value (class 22) and so of a constraint or generated column, because this program writes only values that fit.
fn is_foreign(error: &PgDatabaseError, code: &str) -> bool {
    // Lock conflicts, time limits and shutdowns (these classes) may have a context (`where`) although no function ran.
    let of_a_wait = ["40", "55", "57"].iter().any(|class| code.starts_with(class));
    // The source files of PL/pgSQL, PL/Python, PL/Perl and PL/Tcl are named pl….
    let of_a_language = error.file().is_some_and(|file| file.starts_with("pl"));
    let in_a_function = error.r#where().is_some() && (!of_a_wait || of_a_language);
    in_a_function || code.starts_with("P0") || code.starts_with("22")
}

/// Whether SQLite misses a table, column or function that only a trigger or view of the operator can have named: no
/// migration of this program contains that name.
fn names_another(error: &dyn DatabaseError, code: &str) -> bool {
    let Some((what, name)) = error.message().rsplit_once([':', ' ']) else { return false };
    let name = name.trim().rsplit('.').next().unwrap_or_default();
    let is_missing = code == SQLITE_ERROR && (what.starts_with("no such") || what.contains("has no column"));
    is_missing && !SQLITE.iter().any(|migration| migration.sql.as_str().contains(name))
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Withheld {}

impl DatabaseError for Withheld {
    fn message(&self) -> &str {
        &self.text
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.code))
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }

    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }
}
