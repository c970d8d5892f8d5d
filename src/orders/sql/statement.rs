//! One statement with its values, and one row of its answer, for either database.
//!
//! Both understand `$1`, so a statement is written once. The values have few kinds, and this is the only
//! place that knows how each database takes them.

use std::borrow::Cow;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Database, Decode, Postgres, Row as _, Sqlite, Type};
use topup_jobs::{Incident, Timestamp};

use crate::orders::StoreError;

/// A value to be bound. It has no `Debug`: customers and numbers are among them.
pub(in crate::orders) enum Value {
    Text(Option<String>),
    Integer(Option<i64>),
    Boolean(bool),
    Time(Option<Timestamp>),
}

/// A statement and the values of its placeholders, in their order.
pub(in crate::orders) struct Statement {
    text: Cow<'static, str>,
    values: Vec<Value>,
}

/// A statement without values yet.
pub(in crate::orders) fn sql(text: &'static str) -> Statement {
    Statement { text: Cow::Borrowed(text), values: Vec::new() }
}

/// A statement that is put together of texts of this program. No value may stand in it: values are bound.
pub(in crate::orders) fn sql_built(text: String) -> Statement {
    Statement { text: Cow::Owned(text), values: Vec::new() }
}

fn query<DB: Database>(text: Cow<'static, str>) -> Query<'static, DB, <DB as Database>::Arguments> {
    match text {
        Cow::Borrowed(text) => sqlx::query(text),
        Cow::Owned(text) => sqlx::query(AssertSqlSafe(text)),
    }
}

impl Statement {
    /// Binds the next placeholder.
    pub(in crate::orders) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// The statement that tells how the database would carry this one out.
    pub(in crate::orders) fn explained(self, explain: &str) -> Self {
        Self { text: Cow::Owned(format!("{explain} {}", self.text)), ..self }
    }

    /// For SQLite.
    pub(in crate::orders) fn sqlite(self) -> Query<'static, Sqlite, SqliteArguments> {
        self.values.into_iter().fold(query(self.text), |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Integer(integer) => query.bind(integer),
            Value::Boolean(boolean) => query.bind(boolean),
            Value::Time(time) => query.bind(time),
        })
    }

    /// For PostgreSQL, whose texts cannot hold U+0000: it becomes U+FFFD, so that a reference that a producer sent
    /// with one in it cannot keep an order from being stored for ever.
    pub(in crate::orders) fn postgres(self) -> Query<'static, Postgres, PgArguments> {
        self.values.into_iter().fold(query(self.text), |query, value| match value {
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

/// A row of an answer.
pub(in crate::orders) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    /// The value in this column.
    pub(in crate::orders) fn get<T>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }

    /// The text in this column as what it stands for.
    pub(in crate::orders) fn parse<T: std::str::FromStr>(
        &self,
        column: &'static str,
    ) -> Result<T, StoreError> {
        self.get::<String>(column)?.parse().map_err(|_| StoreError::Row(column))
    }

    /// As [`Row::parse`], where there may be none.
    pub(in crate::orders) fn parse_optional<T: std::str::FromStr>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let text: Option<String> = self.get(column)?;
        text.map(|text| text.parse()).transpose().map_err(|_| StoreError::Row(column))
    }

    /// The count in this column.
    pub(in crate::orders) fn count(&self, column: &'static str) -> Result<u32, StoreError> {
        u32::try_from(self.get::<i64>(column)?).map_err(|_| StoreError::Row(column))
    }

    /// The number of an incident in this column.
    pub(in crate::orders) fn incident(&self, column: &'static str) -> Result<Incident, StoreError> {
        Incident::new(self.count(column)?).ok_or(StoreError::Row(column))
    }
}
