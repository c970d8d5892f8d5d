//! Checks whether a PostgreSQL database can be used, before it is changed. Each error says what to do.

use std::sync::LazyLock;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor, PgConnection, Row};

use crate::orders::StoreError;

/// All tables, each with one of its columns.
const TABLES: [(&str, &str); 7] = [
    ("internet_orders", "topup_id"),
    ("order_events", "topup_id"),
    ("events", "event_id"),
    ("notifications", "event_id"),
    ("reveals", "token_hash"),
    ("topup_store", "store_id"),
    ("store_keys", "fingerprint"),
];

/// Statements that change no row. They fail if a table is missing, the role lacks a right or the server is read-only.
pub(super) static CHANGE_NOTHING: LazyLock<String> = LazyLock::new(|| {
    let of_table = |(table, column)| {
        format!(
            "INSERT INTO {table} ({column}) SELECT {column} FROM {table} WHERE false; \
             UPDATE {table} SET {column} = {column} WHERE false; DELETE FROM {table} WHERE false"
        )
    };
    TABLES.map(of_table).join("; ")
});

/// Refuses a database whose encoding cannot store every name, a database without a schema, and a pooler that gives its
/// session of the server to another client after each transaction.
pub(super) async fn must_fit(
    connection: &mut PgConnection,
    options: &PgConnectOptions,
) -> Result<(), StoreError> {
    const ASK: &str =
        "SELECT current_setting('server_encoding') AS encoding, current_schema()::text AS schema";
    let row = connection.fetch_one(ASK).await?;
    let encoding: String = row.try_get("encoding")?;
    // SQL_ASCII stores any bytes unchanged, so it can store every name, too.
    if encoding != "UTF8" && encoding != "SQL_ASCII" {
        return unfit(format!(
            "its encoding is {encoding}, which cannot store every name and text; create a database with `createdb \
             --encoding=UTF8 --template=template0`, and set DATABASE_URL to it"
        ));
    }
    if row.try_get::<Option<String>, _>("schema")?.is_none() {
        return unfit(
            "none of the schemas of its search_path exists; set one, for example with `ALTER ROLE … SET search_path = public`",
        );
    }
    if hands_connections_on(connection, options).await? {
        return unfit(
            "it is reached through a pooler in transaction mode (such as PgBouncer with pool_mode = transaction), \
             which mixes the statements of several connections; use its session mode, or connect to the server itself",
        );
    }
    Ok(())
}

/// Whether a pooler lets two clients share a session of the server. If so, a setting made by this client is visible to
/// a second client. If the pooler refuses the second client, the sessions count as not shared.
async fn hands_connections_on(
    connection: &mut PgConnection,
    options: &PgConnectOptions,
) -> Result<bool, StoreError> {
    let mark = ulid::Ulid::generate().to_string();
    let set = format!("SET topup_worker.mark = '{mark}'");
    connection.execute(sqlx::AssertSqlSafe(set)).await?;
    let Ok(mut other) = PgConnection::connect_with(options).await else { return Ok(false) };
    let seen = other.fetch_one("SELECT current_setting('topup_worker.mark', true) AS mark").await?;
    let seen: Option<String> = seen.try_get("mark")?;
    other.close().await?;
    Ok(seen == Some(mark))
}

/// Refuses a role that may not create the tables.
pub(super) async fn may_create(connection: &mut PgConnection) -> Result<(), StoreError> {
    const ASK: &str = "SELECT current_schema()::text AS schema, current_user::text AS role,
        has_schema_privilege(current_schema(), 'CREATE') AS may";
    let row = connection.fetch_one(ASK).await?;
    if row.try_get("may")? {
        return Ok(());
    }
    let (schema, role): (String, String) = (row.try_get("schema")?, row.try_get("role")?);
    unfit(format!(
        "its tables are missing or older than this program, and the role {role} may not create tables in the schema \
         {schema}; run `topup-worker migrate` once with a role that may, then grant {role} SELECT, INSERT, UPDATE and \
         DELETE on them"
    ))
}

/// Refuses a role that may not read and change the tables, or that does not see all rows.
pub(super) async fn may_change(connection: &mut PgConnection) -> Result<(), StoreError> {
    const ASK: &str = "SELECT relname::text AS name, current_user::text AS role FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relname = ANY($1) AND relkind = 'r'
        AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
            AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
        ORDER BY relname LIMIT 1";
    let refused = sqlx::query(ASK)
        .bind(TABLES.map(|(table, _)| table.to_owned()))
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = refused else { return hides_nothing(connection).await };
    let (table, role): (String, String) = (row.try_get("name")?, row.try_get("role")?);
    unfit(format!(
        "the role {role} may not read and change its table {table}; run `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES \
         IN SCHEMA … TO {role}`"
    ))
}

/// Refuses tables with row-level security, which would hide orders from this role.
async fn hides_nothing(connection: &mut PgConnection) -> Result<(), StoreError> {
    const ASK: &str = "SELECT relname::text AS name, current_user::text AS role FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relname = ANY($1) AND row_security_active(oid)
        ORDER BY relname LIMIT 1";
    let names = TABLES.map(|(table, _)| table.to_owned());
    let Some(row) = sqlx::query(ASK).bind(names).fetch_optional(connection).await? else { return Ok(()) };
    let (table, role): (String, String) = (row.try_get("name")?, row.try_get("role")?);
    unfit(format!(
        "row-level security of its table {table} would hide orders from the role {role}; run `ALTER TABLE {table} \
         DISABLE ROW LEVEL SECURITY` for each of its tables, or `ALTER ROLE {role} BYPASSRLS`"
    ))
}

fn unfit<T>(why: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Unfit(why.into()))
}
