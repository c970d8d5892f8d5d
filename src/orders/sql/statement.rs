//! A statement with its values, and a row of its result, for SQLite and PostgreSQL.
//!
//! Both databases understand `$1`, so each statement is written once. Only this module knows how values are bound.

use std::borrow::Cow;
use std::fmt::Write as _;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Database, Decode, Postgres, Row as _, Sqlite, Type};
use topup_jobs::{Incident, Timestamp};

use crate::orders::StoreError;

/// Prepared statements that a connection keeps. Those with rows have one variant for each number of rows.
pub(super) const PREPARED_STATEMENTS: usize = 256;

/// A value to bind. It has no `Debug`, because it may contain data of a customer, which must not reach a log.
pub(in crate::orders) enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
    Boolean(bool),
    Time(Option<Timestamp>),
}

/// A statement and the values of its placeholders, in order.
pub(in crate::orders) struct Statement {
    text: Cow<'static, str>,
    values: Vec<Value>,
    /// Number of values of each row, for `{rows}` in the text; 0 without rows.
    columns: usize,
}

/// A statement without values.
pub(in crate::orders) fn sql(text: &'static str) -> Statement {
    Statement { text: Cow::Borrowed(text), values: Vec::new(), columns: 0 }
}

/// A statement built at run time from texts of this program. It must not contain values; values are bound.
pub(in crate::orders) fn sql_built(text: String) -> Statement {
    Statement { text: Cow::Owned(text), values: Vec::new(), columns: 0 }
}

/// Values of one row of a [`sql_with_rows`] statement.
pub(in crate::orders) type Values = Vec<Value>;

/// A statement with rows of equal length: `{rows}` in the text becomes their placeholders, `($1, $2), ($3, $4)`. The text
/// has no other placeholder. In `FROM (VALUES {rows}) AS new`, both databases name the columns `column1`, `column2`, ….
pub(in crate::orders) fn sql_with_rows(text: &str, rows: Vec<Values>) -> Statement {
    let columns = rows.first().map_or(0, Vec::len);
    Statement { text: Cow::Owned(text.to_owned()), values: rows.into_iter().flatten().collect(), columns }
}

fn query<DB: Database>(text: Cow<'static, str>) -> Query<'static, DB, <DB as Database>::Arguments> {
    match text {
        Cow::Borrowed(text) => sqlx::query(text),
        Cow::Owned(text) => sqlx::query(AssertSqlSafe(text)),
    }
}

impl Statement {
    pub(in crate::orders) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Appends `end`, SQL without placeholders. It must be a text of this program, because values are bound.
    pub(in crate::orders) fn followed_by(mut self, end: &str) -> Self {
        self.text.to_mut().push_str(end);
        self
    }

    /// The statement that returns the database's plan for `self`; `explain` is the database's keyword.
    pub(in crate::orders) fn explained(self, explain: &str) -> Self {
        Self { text: Cow::Owned(format!("{explain} {}", self.text)), ..self }
    }

    /// Replaces `{rows}` in the text by the placeholders of all rows.
    fn with_placeholders(mut self, placeholder: impl Fn(&mut String, usize)) -> Self {
        if self.columns > 0 {
            let mut list = String::with_capacity(6 * self.values.len());
            for n in 0..self.values.len() {
                list.push_str(match n % self.columns {
                    0 if n == 0 => "(",
                    0 => "), (",
                    _ => ", ",
                });
                placeholder(&mut list, n + 1);
            }
            list.push(')');
            self.text = Cow::Owned(self.text.replace("{rows}", &list));
        }
        self
    }

    pub(in crate::orders) fn sqlite(self) -> Query<'static, Sqlite, SqliteArguments> {
        // SQLite searches the name of each numbered placeholder in a list, which takes long for many rows.
        let statement = self.with_placeholders(|list, _| list.push('?'));
        statement.values.into_iter().fold(query(statement.text), |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Integer(integer) => query.bind(integer),
            Value::Boolean(boolean) => query.bind(boolean),
            Value::Time(time) => query.bind(time),
        })
    }

    /// Converts the statement for PostgreSQL. U+FFFD replaces U+0000, which PostgreSQL's texts cannot contain:
    /// otherwise an order whose producer sent U+0000 could never be stored.
    pub(in crate::orders) fn postgres(self) -> Query<'static, Postgres, PgArguments> {
        let statement = self.with_placeholders(|list, number| {
            // Writing to a String cannot fail.
            let _ = write!(list, "${number}");
        });
        statement.values.into_iter().fold(query(statement.text), |query, value| match value {
            Value::Text(text) => query.bind(text.map(|text| text.replace('\0', "\u{FFFD}"))),
            Value::Integer(integer) => query.bind(integer),
            Value::Boolean(boolean) => query.bind(boolean),
            Value::Time(time) => query.bind(time),
        })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(integer: i64) -> Self {
        Self::Integer(Some(integer))
    }
}

impl From<Option<i64>> for Value {
    fn from(integer: Option<i64>) -> Self {
        Self::Integer(integer)
    }
}

impl From<u32> for Value {
    fn from(integer: u32) -> Self {
        Self::Integer(Some(integer.into()))
    }
}

impl From<Option<u32>> for Value {
    fn from(integer: Option<u32>) -> Self {
        Self::Integer(integer.map(i64::from))
    }
}

impl From<bool> for Value {
    fn from(boolean: bool) -> Self {
        Self::Boolean(boolean)
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Time(Some(time))
    }
}

impl From<Option<Timestamp>> for Value {
    fn from(time: Option<Timestamp>) -> Self {
        Self::Time(time)
    }
}

pub(in crate::orders) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    pub(in crate::orders) fn get<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    /// Parses the text in this column.
    pub(in crate::orders) fn parse<T: std::str::FromStr>(
        &self,
        column: &'static str,
    ) -> Result<T, StoreError> {
        self.get::<String>(column)?.parse().map_err(|_| StoreError::Row(column))
    }

    /// As [`Row::parse`]; `None` for NULL.
    pub(in crate::orders) fn parse_optional<T: std::str::FromStr>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| text.parse()).transpose().map_err(|_| StoreError::Row(column))
    }

    pub(in crate::orders) fn count(&self, column: &'static str) -> Result<u32, StoreError> {
        u32::try_from(self.get::<i64>(column)?).map_err(|_| StoreError::Row(column))
    }

    pub(in crate::orders) fn incident(&self, column: &'static str) -> Result<Incident, StoreError> {
        Incident::new(self.count(column)?).ok_or(StoreError::Row(column))
    }
}
