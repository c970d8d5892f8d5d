//! A real PostgreSQL for one test: a cluster in a temporary folder, in which the test can create databases.
//!
//! The programs are those of the system (`/usr/lib/postgresql/*/bin`, as Debian installs them, or `PATH`). A shell
//! starts the server. When the process of the test has ended, even by a kill, the shell ends the server and removes
//! the folder. PostgreSQL refuses to run as root. If a test runs as root, its server runs as an unprivileged user.
//!
//! Without PostgreSQL its tests print a line and are skipped; `TOPUP_TEST_REQUIRE_POSTGRES=1` makes them fail.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::redis::free_port;
use super::skip_or_fail;

/// Maximum number of ports to try; another process may take the chosen port first.
const MAX_PORTS: usize = 5;
/// Script of the shell; its arguments are folder, programs, port and user. It prints `ready`, or an error, and runs
/// until the end of its input. At each line of input it crashes the server and starts it again. Committed data survives
/// although `fsync` is off: `synchronous_commit` is on, so the operating system already has the data.
const SHELL: &str = r#"
folder=$1 bin=$2 port=$3 user=$4
as_user() {
  if [ -n "$user" ]; then setpriv --reuid "$user" --regid "$user" --clear-groups "$@"; else "$@"; fi
}
clean_up() {
  [ ! -e cluster/postmaster.pid ] || as_user "$bin/pg_ctl" -D cluster -m immediate -w stop >log 2>&1
  rm -rf "$folder"
}
trap clean_up EXIT
# The test may have ended before the shell prints `ready`.
trap '' PIPE
[ -z "$user" ] || chown "$user:$user" "$folder"
cd "$folder"
export LC_ALL=C
as_user "$bin/initdb" -D cluster -U topup -A trust -N -E UTF8 --locale=C >log 2>&1 ||
  { tr '\n' ' ' <log; exit 1; }
as_user "$bin/pg_ctl" -D cluster -l cluster/log -w -t 60 start -o "-p $port -c listen_addresses=127.0.0.1 \
  -c unix_socket_directories= -c fsync=off -c full_page_writes=off" \
  >log 2>&1 </dev/null || { tr '\n' ' ' <cluster/log; exit 1; }
echo ready
while read -r _; do
  as_user "$bin/pg_ctl" -D cluster -m immediate -w -t 60 -l cluster/log restart >log 2>&1 </dev/null ||
    { tr '\n' ' ' <cluster/log; exit 1; }
  echo ready
done
"#;

/// A running cluster. Dropping it ends the server.
pub(crate) struct TestPostgres {
    shell: Child,
    output: BufReader<ChildStdout>,
    port: u16,
    databases: AtomicUsize,
}

impl TestPostgres {
    /// Starts a cluster. Without PostgreSQL it prints a line and returns `None`.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            skip_or_fail("PostgreSQL", "initdb is not installed", "TOPUP_TEST_REQUIRE_POSTGRES");
            return None;
        };
        let mut last = String::new();
        for _ in 0..MAX_PORTS {
            match Self::start_on(free_port(), &programs) {
                Ok(started) => return Some(started),
                Err(reason) => last = reason,
            }
        }
        panic!("no private PostgreSQL could be started: {last}");
    }

    fn start_on(port: u16, programs: &Path) -> Result<Self, String> {
        // The shell removes the folder, since the process of the test may have been killed.
        let folder = tempfile::Builder::new().prefix("topup-postgres-").tempdir().expect("a folder").keep();
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "sh"])
            .arg(&folder)
            .arg(programs)
            .args([port.to_string(), server_user().unwrap_or_default().to_owned()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A signal to the process group of the test must not end the shell before it has cleaned up.
            .process_group(0)
            .spawn()
            .expect("the shell starts");
        let mut output = BufReader::new(shell.stdout.take().expect("it is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the shell prints a line");
        if line.trim() == "ready" {
            Ok(Self { shell, output, port, databases: AtomicUsize::new(0) })
        } else {
            shell.wait().expect("the shell ends by itself");
            Err(line)
        }
    }

    /// Crashes the server, which breaks all connections, and starts it again. Returns once it answers.
    pub(crate) fn crash(&mut self) {
        let mut line = String::new();
        writeln!(self.shell.stdin.as_ref().expect("it is piped")).expect("the shell reads its input");
        self.output.read_line(&mut line).expect("the shell prints a line");
        assert_eq!(line.trim(), "ready", "PostgreSQL does not start again");
    }

    /// Creates a database and returns its URL.
    pub(crate) async fn database(&self) -> String {
        let name = format!("orders_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection =
            PgConnection::connect(&self.url("postgres")).await.expect("the server accepts the connection");
        let create = sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")));
        create.execute(&mut connection).await.expect("the database is created");
        connection.close().await.expect("the connection closes");
        self.url(&name)
    }

    /// URL of the database with this name.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://topup@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let ended = self.shell.wait().is_ok_and(|status| status.success());
        if !std::thread::panicking() {
            assert!(ended, "the private PostgreSQL could not be stopped");
        }
    }
}

/// Folder of `initdb` and `pg_ctl`, of the newest installed version.
fn programs() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<(u32, PathBuf)> = installed
        .filter_map(|version| Some((version.file_name().to_str()?.parse().ok()?, version.path().join("bin"))))
        .collect();
    folders.sort();
    let folders = folders.into_iter().rev().map(|(_, folder)| folder);
    let path = env::var_os("PATH").unwrap_or_default();
    let has_both = |folder: &PathBuf| folder.join("initdb").exists() && folder.join("pg_ctl").exists();
    folders.chain(env::split_paths(&path)).find(has_both)
}

/// User of the server if the test runs as root.
fn server_user() -> Option<&'static str> {
    let id = |args: &[&str]| {
        let output = Command::new("id").args(args).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    if id(&["-u"])?.trim() != "0" {
        return None;
    }
    ["postgres", "nobody"].into_iter().find(|user| id(&["-u", user]).is_some())
}

#[tokio::test]
async fn dropping_the_handle_ends_the_cluster_and_removes_its_data() {
    let Some(postgres) = TestPostgres::start() else { return };
    let (one, other) = (postgres.database().await, postgres.database().await);
    assert_ne!(one, other);
    let mut connection = PgConnection::connect(&one).await.unwrap();
    let folder: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await.unwrap();
    assert!(Path::new(&folder).exists());
    drop(postgres);
    assert!(!Path::new(&folder).exists());
    assert!(PgConnection::connect(&one).await.is_err());
}
