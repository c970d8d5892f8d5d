//! Parses `REDIS_URL`. The client library parses only URLs with one host, but Sentinels and clusters have several. So
//! this module splits the hosts and makes a URL for each of them.

use std::sync::Mutex;

use redis::{ConnectionInfo, IntoConnectionInfo};
use url::Url;

use super::sentinel::Sentinels;
use super::{Kind, Names};

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// The URL has none of the accepted forms. The message never repeats the URL, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; the forms are redis://[user:password@]host:port[/db], \
     redis+sentinel://[user:password@]host:port[,host:port…]/master-name[/db][?sentinel_user=…&sentinel_password=…], \
     redis+cluster://[user:password@]host:port[,host:port…] and unix:///path, and for TLS rediss://, \
     rediss+sentinel:// and rediss+cluster://"
)]
pub struct InvalidAddress(&'static str);

const NO_URL: InvalidAddress = InvalidAddress("it is not an address of Redis");

pub(super) fn parse(url: &str, names: &Names) -> Result<Kind, InvalidAddress> {
    let (scheme, rest) = url.split_once("://").ok_or(NO_URL)?;
    if rest.contains('#') {
        return Err(InvalidAddress("nothing may follow a #, and a # in a password is written %23"));
    }
    let (encrypted, kind) = match scheme.split_once('+') {
        Some(("redis", kind)) => (false, kind),
        Some(("rediss", kind)) => (true, kind),
        _ => (false, ""),
    };
    match kind {
        "sentinel" => sentinels(Several::split(encrypted, rest)?),
        "cluster" => cluster(Several::split(encrypted, rest)?, names),
        _ => {
            let server = url.into_connection_info().map_err(|_| NO_URL)?;
            if server.redis_settings().db() < 0 {
                return Err(InvalidAddress("the database must be a number from 0"));
            }
            Ok(Kind::Fixed(server))
        }
    }
}

fn sentinels(url: Several<'_>) -> Result<Kind, InvalidAddress> {
    let (master_name, database) = url.path.split_once('/').unwrap_or((url.path, ""));
    if master_name.is_empty() {
        return Err(InvalidAddress("the name under which the Sentinels know the master is missing"));
    }
    if !database.is_empty() && database.parse::<u16>().is_err() {
        return Err(InvalidAddress("the database must be a number from 0"));
    }
    let mut login = ["", ""];
    for parameter in url.query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sentinel_user", user)) => login[0] = user,
            Some(("sentinel_password", password)) => login[1] = password,
            _ => return Err(InvalidAddress("an unknown parameter follows the ?")),
        }
    }
    let hosts = url.servers(SENTINEL_PORT, login, "")?;
    // Only the Sentinels know the host of the master, so the host is a placeholder.
    let master = url.server("localhost", REDIS_PORT, url.login, database)?;
    let master_name = master_name.to_owned();
    Ok(Kind::Sentinels(Sentinels { hosts, master_name, master }))
}

fn cluster(url: Several<'_>, names: &Names) -> Result<Kind, InvalidAddress> {
    if !matches!(url.path, "" | "0") {
        return Err(InvalidAddress("a cluster has only database 0"));
    }
    if !url.query.is_empty() {
        return Err(InvalidAddress("an unknown parameter follows the ?"));
    }
    let nodes = url.servers(REDIS_PORT, url.login, "")?;
    Ok(Kind::Cluster { nodes, key: names.inbox(), last_owner: Mutex::default() })
}

/// The parts of a URL with several hosts, still percent-encoded.
#[derive(Clone, Copy)]
struct Several<'a> {
    encrypted: bool,
    /// User and password, each empty if it is not given.
    login: [&'a str; 2],
    hosts: &'a str,
    /// The path of the URL without its first slash.
    path: &'a str,
    query: &'a str,
}

impl<'a> Several<'a> {
    fn split(encrypted: bool, rest: &'a str) -> Result<Self, InvalidAddress> {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        if hosts.is_empty() {
            return Err(InvalidAddress("no host is named"));
        }
        Ok(Self { encrypted, login: [user, password], hosts, path: path.trim_end_matches('/'), query })
    }

    fn servers(
        &self,
        port: u16,
        login: [&str; 2],
        database: &str,
    ) -> Result<Vec<ConnectionInfo>, InvalidAddress> {
        self.hosts.split(',').map(|host| self.server(host, port, login, database)).collect()
    }

    /// Parses one `host` or `host:port`; `port` is the default.
    fn server(
        &self,
        host: &str,
        port: u16,
        [user, password]: [&str; 2],
        database: &str,
    ) -> Result<ConnectionInfo, InvalidAddress> {
        let scheme = if self.encrypted { "rediss" } else { "redis" };
        let url = || {
            let mut url: Url = format!("{scheme}://{host}").parse().ok()?;
            url.set_port(Some(url.port().unwrap_or(port))).ok()?;
            url.set_username(user).ok()?;
            url.set_password(Some(password).filter(|password| !password.is_empty())).ok()?;
            url.set_path(database);
            url.into_connection_info().ok()
        };
        url().ok_or(InvalidAddress("a host or the login cannot be read"))
    }
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
