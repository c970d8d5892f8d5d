//! PostgreSQL databases, roles and poolers: each works, or the program names the change that it needs.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use topup_jobs::OrderStatus;
use topup_worker::simulator::{Script, SimulatorSettings};

use super::readiness::readyz;
use super::{execute, on_postgres, refused, setting};
use crate::support::postgres::TestPostgres;
use crate::support::redis::{TestRedis, free_port};
use crate::support::{Bed, skip_or_fail, until};

/// Has the workers use the same database as another role.
fn connect_as(bed: &mut Bed, role: &str) {
    let url = setting(bed, "DATABASE_URL").replacen("//topup@", &format!("//{role}@"), 1);
    bed.set("DATABASE_URL", url);
}

fn database(bed: &Bed) -> String {
    setting(bed, "DATABASE_URL").rsplit('/').next().unwrap().to_owned()
}

/// Enqueues orders and waits until they are delivered and stored.
async fn deliver_and_store(bed: &Bed, orders: usize) {
    let orders = deliver(bed, orders).await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
}

/// Enqueues orders, waits for their webhooks without a database connection of the test, and returns the ids.
pub(super) async fn deliver(bed: &Bed, orders: usize) -> Vec<String> {
    let orders: Vec<String> =
        (0..orders).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    bed.enqueue(&orders).await;
    for order in &orders {
        bed.delivered(order, "fulfilled").await;
    }
    orders
}

#[tokio::test]
async fn an_unusable_database_is_refused_with_the_change_it_needs() {
    let Some((mut bed, postgres)) = on_postgres(600.0).await else { return };
    let admin = setting(&bed, "DATABASE_URL").to_owned();
    let latin1 = "CREATE DATABASE western ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    execute(&bed, latin1).await;
    bed.set("DATABASE_URL", postgres.url("western"));
    for command in ["run", "migrate"] {
        let words = refused(&bed, &[command], 1).await;
        assert!(
            words.contains("its encoding is LATIN1") && words.contains("createdb --encoding=UTF8"),
            "{words}"
        );
    }
    let found = store_check_of_doctor(&bed).await;
    assert!(found.contains("its encoding is LATIN1"), "{found}");

    bed.set("DATABASE_URL", &admin);
    for statement in [
        "CREATE ROLE lost LOGIN; ALTER ROLE lost SET search_path = ''",
        "CREATE ROLE reader LOGIN",
        "CREATE ROLE writer LOGIN",
    ] {
        for statement in statement.split("; ") {
            execute(&bed, statement).await;
        }
    }
    connect_as(&mut bed, "lost");
    let words = refused(&bed, &["run"], 1).await;
    assert!(words.contains("none of the schemas of its search_path exists"), "{words}");

    bed.set("DATABASE_URL", &admin);
    connect_as(&mut bed, "writer");
    let words = refused(&bed, &["migrate"], 1).await;
    assert!(words.contains("the role writer may not create tables in the schema public"), "{words}");

    bed.set("DATABASE_URL", &admin);
    assert!(bed.program(&["migrate"]).status.success());
    for role in ["reader", "writer"] {
        execute(&bed, &format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")).await;
    }
    execute(&bed, "GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer").await;
    connect_as(&mut bed, "reader");
    let words = refused(&bed, &["run"], 1).await;
    assert!(words.contains("the role reader may not read and change its table events"), "{words}");
    bed.set("DATABASE_URL", admin);
    connect_as(&mut bed, "writer");
    let found = store_check_of_doctor(&bed).await;
    assert!(found.contains("opens and can be written"), "{found}");
    let mut worker = bed.worker().await;
    deliver_and_store(&bed, 5).await;
    assert!(worker.stop().await.success());

    bed.set("DATABASE_URL", postgres.url(&database(&bed)));
    execute(&bed, "ALTER TABLE reveals ENABLE ROW LEVEL SECURITY").await;
    connect_as(&mut bed, "writer");
    let hides = "row-level security of its table reveals would hide orders from the role writer";
    let words = refused(&bed, &["run"], 1).await;
    assert!(words.contains(hides), "{words}");
    let found = store_check_of_doctor(&bed).await;
    assert!(found.contains(hides) && found.contains("BYPASSRLS"), "{found}");
}

/// The check `store` in the report of `doctor`.
pub(super) async fn store_check_of_doctor(bed: &Bed) -> String {
    let output = bed.program_async(&["doctor", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == "store").unwrap().to_string()
}

#[tokio::test]
async fn session_defaults_of_a_database_do_not_affect_workers() {
    let Some((bed, postgres)) = on_postgres(600.0).await else { return };
    for setting in [
        "default_transaction_isolation = 'serializable'",
        "default_transaction_read_only = on",
        "default_transaction_deferrable = on",
        "standard_conforming_strings = off",
        "DateStyle = 'SQL, DMY'",
        "TimeZone = 'Africa/Algiers'",
        "statement_timeout = '300ms'",
        "lock_timeout = '1ms'",
        "idle_in_transaction_session_timeout = '300ms'",
        "extra_float_digits = 0",
        "bytea_output = 'escape'",
        "synchronous_commit = off",
    ] {
        let alter = format!("ALTER DATABASE {} SET {setting}", database(&bed));
        let mut connection = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
        sqlx::query(AssertSqlSafe(alter)).execute(&mut connection).await.unwrap();
    }
    let found = store_check_of_doctor(&bed).await;
    assert!(found.contains("opens and can be written"), "{found}");
    let workers = [bed.worker().await, bed.worker().await];
    deliver_and_store(&bed, 120).await;
    bed.idle().await;
    assert_eq!(bed.sink.received().len(), 120, "no event is delivered twice");
    for worker in &workers {
        assert!(!worker.log().contains("the store failed"), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_worker_waits_for_a_database_that_is_unreachable_at_the_start() {
    let Some(postgres) = TestPostgres::start() else { return };
    let mut bed = Bed::on(TestRedis::start().await, 600.0, SimulatorSettings::default()).await;
    let here = postgres.database().await;
    let proxy = crate::support::Proxy::start("redis://127.0.0.1:1", Duration::ZERO).await;
    let (server, database) = here.strip_prefix("postgres://topup@").unwrap().split_once('/').unwrap();
    bed.set(
        "DATABASE_URL",
        format!("postgres://topup@{}/{database}", proxy.url().strip_prefix("redis://").unwrap()),
    );
    let address = bed.serve_http();
    let mut worker = bed.starting_worker();
    readyz(&address, "not ready: the database does not answer").await;
    worker.logs("the database does not answer; orders wait until it can be used again").await;
    proxy.forward_to(&format!("redis://{server}"));
    worker.ready().await;
    deliver_and_store(&bed, 2).await;
    readyz(&address, "200 OK").await;
    assert!(worker.stop().await.success());
}

/// PgBouncer in front of a server.
struct PgBouncer {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl PgBouncer {
    async fn start(server: &str, pool_mode: &str, pool_size: usize) -> Option<Self> {
        let program =
            ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|file| Path::new(file).exists());
        let Some(program) = program else {
            skip_or_fail("PgBouncer", "it is not installed", "TOPUP_TEST_REQUIRE_PGBOUNCER");
            return None;
        };
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let (host, server_port) = server.split_once(':').unwrap();
        let users = folder.path().join("users");
        std::fs::write(&users, "\"topup\" \"\"\n").unwrap();
        let root =
            std::env::var("USER").is_ok_and(|user| user == "root") || Path::new("/root/.").read_dir().is_ok();
        let user = if root { "user = nobody\n" } else { "" };
        let settings = format!(
            "[databases]\n* = host={host} port={server_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {pool_mode}\ndefault_pool_size = {pool_size}\n{user}",
            users.display()
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        // PgBouncer reads the files as another user.
        for path in [folder.path(), &users, &file] {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let process = Command::new(program).arg(&file).stderr(Stdio::null()).spawn().unwrap();
        until("PgBouncer listens", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok())
            .await;
        Some(Self { process, port, _folder: folder })
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a PgBouncer and has the workers connect through it.
async fn through_pgbouncer(bed: &mut Bed, pool_mode: &str, pool_size: usize) -> Option<PgBouncer> {
    let url = setting(bed, "DATABASE_URL").to_owned();
    let (server, database) = url.strip_prefix("postgres://topup@").unwrap().split_once('/').unwrap();
    let pooler = PgBouncer::start(server, pool_mode, pool_size).await?;
    bed.set("DATABASE_URL", format!("postgres://topup@127.0.0.1:{}/{database}", pooler.port));
    Some(pooler)
}

#[tokio::test]
async fn four_workers_work_through_a_pgbouncer_in_session_mode() {
    let Some((mut bed, _postgres)) = on_postgres(600.0).await else { return };
    let Some(_pooler) = through_pgbouncer(&mut bed, "session", 50).await else { return };
    let workers = [bed.worker().await, bed.worker().await, bed.worker().await, bed.worker().await];
    deliver_and_store(&bed, 60).await;
    for worker in &workers {
        assert!(!worker.log().contains("the store failed"), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_pgbouncer_in_transaction_mode_is_recognised_and_refused() {
    let Some((mut bed, _postgres)) = on_postgres(600.0).await else { return };
    let direct = setting(&bed, "DATABASE_URL").to_owned();
    let Some(_pooler) = through_pgbouncer(&mut bed, "transaction", 50).await else { return };
    let through = setting(&bed, "DATABASE_URL").to_owned();
    for command in [&["migrate"][..], &["run"]] {
        let words = refused(&bed, command, 1).await;
        assert!(words.contains("a pooler in transaction mode"), "{words}");
    }
    // The same once the tables exist and Redis knows the database.
    bed.set("DATABASE_URL", direct);
    assert!(bed.worker().await.stop().await.success());
    bed.set("DATABASE_URL", through);
    for command in [&["run"][..], &["orders"], &["migrate"]] {
        let words = refused(&bed, command, 1).await;
        assert!(words.contains("a pooler in transaction mode"), "{command:?}: {words}");
    }
    let doctor = bed.program(&["doctor"]);
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        found.contains("a pooler in transaction mode") && found.contains("use its session mode"),
        "{found}"
    );
}

/// The number of connections that workers have open.
async fn connections(postgres: &TestPostgres) -> i64 {
    let mut connection = PgConnection::connect(&postgres.url("postgres")).await.unwrap();
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'topup-worker'";
    sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn a_worker_opens_as_many_connections_as_configured() {
    let Some((mut bed, postgres)) = on_postgres(600.0).await else { return };
    bed.set("DATABASE_CONNECTIONS", "2");
    let _worker = bed.worker().await;
    deliver_and_store(&bed, 120).await;
    assert_eq!(connections(&postgres).await, 2);
}

#[tokio::test]
async fn a_worker_works_within_the_connection_limit_of_its_role() {
    let Some((mut bed, postgres)) = on_postgres(600.0).await else { return };
    assert!(bed.program(&["migrate"]).status.success());
    for statement in [
        "CREATE ROLE few LOGIN CONNECTION LIMIT 2",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO few",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO few",
    ] {
        execute(&bed, statement).await;
    }
    connect_as(&mut bed, "few");
    let worker = bed.worker().await;
    deliver(&bed, 200).await;
    assert_eq!(connections(&postgres).await, 2);
    worker.logs("calls share them connections=2 wanted=10").await;
    assert!(!worker.log().contains("the store failed"), "{}", worker.log());
}

#[tokio::test]
async fn a_worker_works_within_the_pool_size_of_a_pgbouncer() {
    let Some((mut bed, _postgres)) = on_postgres(600.0).await else { return };
    let Some(_pooler) = through_pgbouncer(&mut bed, "session", 2).await else { return };
    let worker = bed.worker().await;
    deliver(&bed, 200).await;
    worker.logs("calls share them connections=2 wanted=10").await;
    assert!(!worker.log().contains("the store failed"), "{}", worker.log());
}
