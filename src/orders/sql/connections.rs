//! A worker's connections to PostgreSQL: up to the configured limit, and no more than the server allows.
//!
//! The role, the server or a pooler may allow fewer connections than the limit. sqlx's pool then lets a call wait 30 s
//! for a new connection although open ones are idle, and no other library's pool shrinks. This pool lets the calls
//! share the open connections, and tries from time to time to open one more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Default limit of a worker's connections. A check of an order needs a connection for milliseconds only. Nine workers
/// with this limit fit into the 100 connections of a server's default settings.
pub(crate) const DEFAULT_CONNECTIONS: u16 = 10;
/// Largest limit that the setting accepts.
pub(crate) const MAX_CONNECTIONS: u16 = 200;
/// How long a call waits for a connection.
const FREE_WITHIN: Duration = Duration::from_secs(30);
/// Time limit for opening a connection, and for the answer of an idle connection to a ping.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// A connection used within this time is lent without a ping.
const SURELY_ANSWERS: Duration = Duration::from_secs(1);
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);
/// Pause before the next try after the server has refused a connection, doubled with each refusal up to `MAX_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// Refused connections less than this time apart count as one refusal, so they double the pause only once.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The pool of connections. Clones share it.
#[derive(Debug, Clone)]
pub(in crate::orders) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: PgConnectOptions,
    /// Statements that configure each new connection.
    settings: Vec<&'static str>,
    /// One permit for each allowed connection. Calls get permits in order of arrival.
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Idle connections with the time of their last use, the most recent one last.
    idle: Vec<(PgConnection, Instant)>,
    /// Number of connections, idle or in use.
    open: usize,
    /// Number of connections that the server seems to allow.
    granted: usize,
    /// The configured limit.
    most: usize,
    /// The last logged value of `granted`.
    logged: usize,
    /// When a connection was last refused; `None` again once `granted` is raised by one, until the next refusal.
    refused_at: Option<Instant>,
    pause: Duration,
    /// When the pool next tries to open one more connection.
    tries_at: Instant,
}

impl Connections {
    /// Creates the pool and its first connection.
    pub(super) async fn open(
        options: PgConnectOptions,
        settings: Vec<&'static str>,
    ) -> Result<Self, sqlx::Error> {
        let most = usize::from(DEFAULT_CONNECTIONS);
        let state = State {
            idle: Vec::new(),
            open: 0,
            granted: most,
            most,
            logged: most,
            refused_at: None,
            pause: FIRST_PAUSE,
            tries_at: Instant::now(),
        };
        let places = Arc::new(Semaphore::new(most));
        let connections = Self(Arc::new(Inner { options, settings, places, state: Mutex::new(state) }));
        connections.get().await?;
        Ok(connections)
    }

    /// Sets the limit; must be called before the connections are used.
    pub(super) fn limit(&self, most: usize) {
        let mut state = self.0.state();
        self.0.places.add_permits(most.saturating_sub(state.granted));
        self.0.places.forget_permits(state.granted.saturating_sub(most));
        (state.most, state.granted, state.logged) = (most, most, most);
    }

    /// Lends a connection to a call.
    pub(super) async fn get(&self) -> Result<Connection, sqlx::Error> {
        loop {
            self.0.tend();
            let turn = timeout(FREE_WITHIN, Arc::clone(&self.0.places).acquire_owned()).await;
            let Ok(Ok(place)) = turn else { return Err(sqlx::Error::PoolTimedOut) };
            while let Some((connection, used_at)) = self.0.idle() {
                let mut lent = self.lend(connection);
                if used_at.elapsed() < SURELY_ANSWERS || lent.answers().await {
                    return Ok(Connection { lent, _place: place });
                }
            }
            let error = match timeout(ANSWERS_WITHIN, self.0.connect()).await {
                Ok(Ok(connection)) => {
                    self.0.state().open += 1;
                    return Ok(Connection { lent: self.lend(connection), _place: place });
                }
                Ok(Err(error)) if !is_of_too_many(&error) => return Err(error),
                Ok(Err(error)) => error,
                // A pooler at its limit keeps a new client waiting, so no answer in time counts as a refusal.
                Err(_elapsed) => sqlx::Error::PoolTimedOut,
            };
            if !self.0.state().makes_do() {
                return Err(error);
            }
            // The server allows fewer connections than there are permits, so this permit is removed.
            place.forget();
        }
    }

    fn lend(&self, connection: PgConnection) -> Lent {
        Lent { connection: Some(connection), is_in_use: false, home: Arc::clone(&self.0) }
    }

    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut self.0.state().idle);
        for (connection, _) in idle {
            drop(connection.close().await);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.options).await?;
        for settings in &self.settings {
            connection.execute(*settings).await?;
        }
        Ok(connection)
    }

    /// The most recently used idle connection, with the time of that use.
    fn idle(&self) -> Option<(PgConnection, Instant)> {
        self.state().idle.pop()
    }

    /// Closes connections idle for too long, logs changes of the limit, and allows one more connection if a try is due.
    fn tend(&self) {
        let mut state = self.state();
        let (now, before) = (Instant::now(), state.idle.len());
        state.idle.retain(|(_, used_at)| now - *used_at < IDLE_TIMEOUT);
        state.open -= before - state.idle.len();
        state.log();
        if state.granted < state.most && now >= state.tries_at {
            if state.refused_at.take().is_none() {
                // The server did not refuse the last additional connection, so the pauses start again at `FIRST_PAUSE`.
                state.pause = FIRST_PAUSE;
            }
            state.granted += 1;
            state.tries_at = now + state.pause;
            self.places.add_permits(1);
        }
    }
}

impl State {
    /// Lowers the limit after a refused connection. Returns false if there is no other connection to share.
    fn makes_do(&mut self) -> bool {
        if self.open == 0 || self.granted == 1 {
            return false;
        }
        let now = Instant::now();
        if self.refused_at.is_none_or(|at| now - at > AT_ONCE) {
            self.tries_at = now + self.pause;
            self.pause = (self.pause * 2).min(MAX_PAUSE);
        }
        self.refused_at = Some(now);
        self.granted -= 1;
        true
    }

    /// Logs that the number of allowed connections has changed, once no connection was refused for [`AT_ONCE`].
    fn log(&mut self) {
        if self.refused_at.is_some_and(|at| at.elapsed() < AT_ONCE) {
            return;
        }
        let (connections, wanted) = (self.granted, self.most);
        if connections < self.logged {
            self.logged = connections;
            tracing::warn!(
                connections,
                wanted,
                "the database allows this worker fewer connections than configured; calls share them"
            );
        } else if self.open == wanted && self.logged < wanted {
            self.logged = connections;
            tracing::info!(connections, "the database allows this worker all configured connections again");
        }
    }
}

/// Whether the server or a pooler refused because of too many connections.
fn is_of_too_many(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    // too_many_connections, and the code that PgBouncer uses for its own limits.
    code.is_some_and(|code| ["53300", "08P01"].contains(&&*code))
}

/// A lent connection with its permit.
#[derive(Debug)]
pub(in crate::orders) struct Connection {
    // Drop order: the connection must be idle before its permit is free.
    lent: Lent,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) async fn execute(&mut self, statements: &'static str) -> Result<(), sqlx::Error> {
        self.in_use().execute(statements).await?;
        Ok(())
    }

    /// The connection, marked as in use until [`Connection::done`] is called.
    pub(super) fn in_use(&mut self) -> &mut PgConnection {
        self.lent.in_use()
    }

    /// Marks the connection as reusable. The caller must have ended its statement or transaction.
    pub(super) fn done(&mut self) {
        self.lent.is_in_use = false;
    }
}

/// A connection that returns to the pool when dropped; it is closed if a statement or transaction on it has not ended.
#[derive(Debug)]
struct Lent {
    /// `None` only once `drop` has taken the connection.
    connection: Option<PgConnection>,
    is_in_use: bool,
    home: Arc<Inner>,
}

impl Lent {
    fn in_use(&mut self) -> &mut PgConnection {
        self.is_in_use = true;
        // Invariant: only `drop` takes the connection.
        self.connection.as_mut().expect("it is there")
    }

    async fn answers(&mut self) -> bool {
        let answers = timeout(ANSWERS_WITHIN, self.in_use().ping()).await.is_ok_and(|ping| ping.is_ok());
        self.is_in_use = !answers;
        answers
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut state = self.home.state();
        match self.connection.take().filter(|_| !self.is_in_use) {
            Some(connection) => state.idle.push((connection, Instant::now())),
            None => state.open -= 1,
        }
    }
}
