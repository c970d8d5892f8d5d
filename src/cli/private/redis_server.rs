//! A Redis of the command's own: on a free port of the loopback, its data in the command's folder.
//!
//! It writes every change to its append-only file, as a real one must: Redis is where an order lives between
//! two looks. The one of the person who runs it is never asked.

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

/// Names a redis-server to use instead of the one on PATH.
const VARIABLE: &str = "REDIS_SERVER";
/// Longest wait for its first answer.
const START_TIME: Duration = Duration::from_secs(10);
/// Another process may take a port between its choice and its use.
const MAX_PORTS: u32 = 3;

/// Where redis-server is.
pub(in crate::cli) fn find() -> Result<PathBuf, SettingsError> {
    let given = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
    let name = given.clone().unwrap_or_else(|| OsString::from("redis-server"));
    if let Some(found) = on_path(Path::new(&name)) {
        return Ok(found);
    }
    let advice = "this command starts a Redis of its own and found no redis-server on the PATH; install Redis \
                  7 or newer (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis), or \
                  set it to the path of a redis-server";
    Err(match given {
        Some(_) => SettingsError::Unusable {
            name: VARIABLE,
            why: "there is no such program; set it to the path of a redis-server, or leave it out".to_owned(),
        },
        None => SettingsError::Missing { name: VARIABLE, advice },
    })
}

/// A name without a folder is looked for on PATH, as a shell does.
fn on_path(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Starts it and waits until it answers. Gives its address, too.
pub(in crate::cli) async fn start(program: &Path, folder: &Folder) -> anyhow::Result<(Process, String)> {
    let data = folder.path().join("redis");
    std::fs::create_dir(&data).context("the folder of Redis cannot be made")?;
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
