//! A private Redis on a free loopback port, with its data in the command's folder; the user's own Redis is never used.
//! The server writes every change to its append-only file, as in production, because Redis holds the scheduled jobs.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::process::Command;

use super::Folder;
use super::Process;
use crate::config::SettingsError;

/// Environment variable with the path of a redis-server to use instead of the one on PATH.
const VARIABLE: &str = "REDIS_SERVER";
/// Maximum wait for the server's first answer.
const START_TIME: Duration = Duration::from_secs(10);
/// Number of ports to try, because another process may take a free port before redis-server does.
const MAX_PORTS: u32 = 3;

pub(in crate::cli) fn find() -> Result<PathBuf, SettingsError> {
    let given = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
    let name = given.clone().unwrap_or_else(|| OsString::from("redis-server"));
    if let Some(found) = on_path(Path::new(&name)) {
        return Ok(found);
    }
    let advice = "this command needs a redis-server and found none on PATH; install Redis 7 or newer (Debian, \
                  Ubuntu: apt-get install redis-server; macOS: brew install redis), or set it to the path of one";
    Err(match given {
        Some(_) => SettingsError::Unusable {
            name: VARIABLE,
            why: "there is no such program; set it to the path of a redis-server, or unset it".to_owned(),
        },
        None => SettingsError::Missing { name: VARIABLE, advice },
    })
}

/// Finds a program as a shell does: searches PATH for a name without a folder, and uses any other path as it is.
fn on_path(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Starts the server, waits for its first answer and returns it with its address.
pub(in crate::cli) async fn start(program: &Path, folder: &Folder) -> anyhow::Result<(Process, String)> {
    let data = folder.path().join("redis");
    std::fs::create_dir(&data).context("cannot create the folder of Redis")?;
    let mut tries = 0;
    loop {
        tries += 1;
        let port = free_port().await?;
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--daemonize", "no", "--dir"]).arg(&data);
        let mut process = Process::start("redis", command, folder)?;
        let url = format!("redis://127.0.0.1:{port}");
        match answers(&mut process, &url).await {
            Ok(()) => return Ok((process, url)),
            Err(error) if tries == MAX_PORTS => return Err(error),
            Err(_) => process.kill().await?,
        }
    }
}

async fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

async fn answers(process: &mut Process, url: &str) -> anyhow::Result<()> {
    let client = redis::Client::open(url)?;
    let asking = async {
        loop {
            process.must_run()?;
            if let Ok(mut connection) = client.get_multiplexed_async_connection().await
                && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(START_TIME, asking).await.context("redis-server does not answer")?
}
