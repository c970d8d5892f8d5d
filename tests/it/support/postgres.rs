//! A real PostgreSQL of a test's own: a cluster in a temporary folder, a database for whoever asks.
//!
//! The programs are those of the system (`/usr/lib/postgresql/*/bin`, as Debian installs them, or `PATH`). A
//! shell stands between the test and the server: it ends the server and removes the folder when the test's
//! process is gone, however that ended. PostgreSQL refuses to run as root, so root starts it as `postgres` or
//! `nobody`.
//!
//! Where there is no PostgreSQL the tests that need one say so and are left out; with
//! `TOPUP_TEST_REQUIRE_POSTGRES=1` they fail instead.

use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::leave_out;
use super::redis::free_port;

/// How often another port is tried when someone was faster to take the chosen one.
const PORTS_TRIED: usize = 5;
/// Folder, programs, port and user. It says `ready`, or why not, and waits for the end of its input; at every
/// line before that it lets the server crash and starts it again. What is committed is in the hands of the
/// system by then (`fsync` is off, `synchronous_commit` is not), as a crash of the server alone demands.
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
# Nobody may be there any more to hear that it is ready.
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

/// A running cluster. Dropping it ends it.
pub(crate) struct TestPostgres {
    shell: Child,
    says: BufReader<ChildStdout>,
    port: u16,
    databases: AtomicUsize,
}

impl TestPostgres {
    /// Starts a cluster, or returns `None` with a printed line where there is no PostgreSQL.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            leave_out("PostgreSQL", "no initdb here", "TOPUP_TEST_REQUIRE_POSTGRES");
            return None;
        };
        let mut last = String::new();
        for _ in 0..PORTS_TRIED {
            match Self::start_on(free_port(), &programs) {
                Ok(started) => return Some(started),
                Err(reason) => last = reason,
            }
        }
        panic!("no private PostgreSQL could be started: {last}");
    }

    fn start_on(port: u16, programs: &Path) -> Result<Self, String> {
        // The shell removes it: the test may be gone by then.
        let folder = tempfile::Builder::new().prefix("topup-postgres-").tempdir().expect("a folder").keep();
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "sh"])
            .arg(&folder)
            .arg(programs)
            .args([port.to_string(), server_user().unwrap_or_default().to_owned()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A signal to the group of the test must not end it before it has cleaned up.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        let mut says = BufReader::new(shell.stdout.take().expect("it is piped"));
        let mut said = String::new();
        says.read_line(&mut said).expect("it says something");
        if said.trim() == "ready" {
            Ok(Self { shell, says, port, databases: AtomicUsize::new(0) })
        } else {
            shell.wait().expect("it ends by itself");
            Err(said)
        }
    }

    /// Lets the server crash, every connection with it, and starts it again. Returns once it answers.
    pub(crate) fn crash(&mut self) {
        let mut said = String::new();
        writeln!(self.shell.stdin.as_ref().expect("it is piped")).expect("the shell listens");
        self.says.read_line(&mut said).expect("it says something");
        assert_eq!(said.trim(), "ready", "PostgreSQL does not start again");
    }

    /// A new database; its address.
    pub(crate) async fn database(&self) -> String {
        let name = format!("orders_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection =
            PgConnection::connect(&self.url("postgres")).await.expect("the server lets us in");
        let create = sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")));
        create.execute(&mut connection).await.expect("the database is made");
        connection.close().await.expect("the connection ends");
        self.url(&name)
    }

    /// The address of a database by its name.
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

/// Where `initdb` and `pg_ctl` are; of several versions the newest.
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

/// Who runs the server, where this is root.
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
async fn a_cluster_ends_with_its_handle_and_leaves_nothing() {
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
