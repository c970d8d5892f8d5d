//! Replaces error texts that are not the database's own.
//!
//! A trigger or function of the operator may put any text in its error, even a phone number, and an error about a value
//! repeats that value. Such a text must not reach a log.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use sqlx::error::{DatabaseError, ErrorKind};
use sqlx::postgres::PgDatabaseError;

/// SQLite's `SQLITE_CONSTRAINT_TRIGGER`: `RAISE` in a trigger.
const RAISED_SQLITE: &str = "1811";

/// An error of the database without its text.
#[derive(Debug)]
pub(super) struct Withheld {
    text: String,
    code: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A trigger or function has failed.
    Raised,
    /// The database refuses a value.
    Value,
}

/// Replaces the text of an error if it may contain a value of an order.
pub(super) fn withhold(error: sqlx::Error) -> sqlx::Error {
    let withheld = error.as_database_error().and_then(|error| {
        let code = error.code()?.into_owned();
        let (kind, what) = match kind(error, &code)? {
            Kind::Raised => (Kind::Raised, "a trigger or function of the database has failed"),
            Kind::Value => (Kind::Value, "the database refuses a value"),
        };
        let text = format!("{what} (code {code}; the log of the database may have its text)");
        Some(Withheld { text, code, kind })
    });
    withheld.map_or(error, |withheld| sqlx::Error::Database(Box::new(withheld)))
}

/// Whether a trigger or function of the operator caused this error.
pub(super) fn is_raised(error: &dyn DatabaseError) -> bool {
    error.try_downcast_ref::<Withheld>().is_some_and(|withheld| withheld.kind == Kind::Raised)
}

fn kind(error: &dyn DatabaseError, code: &str) -> Option<Kind> {
    let has_context = |error: &PgDatabaseError| error.r#where().is_some();
    // An error in a function has a context. Lock conflicts, time limits and shutdowns have one even without a function.
    let of_a_wait = ["40", "55", "57"].iter().any(|class| code.starts_with(class));
    let in_a_function = !of_a_wait && error.try_downcast_ref().is_some_and(has_context);
    // P0: `RAISE` of PL/pgSQL. 22: data exceptions. SQLSTATEs have five characters, and SQLite's codes have fewer.
    if in_a_function || code.starts_with("P0") || code == RAISED_SQLITE {
        Some(Kind::Raised)
    } else {
        (code.len() == 5 && code.starts_with("22")).then_some(Kind::Value)
    }
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
