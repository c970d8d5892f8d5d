//! The connections of a worker to PostgreSQL: as many as are set, and no more than the server grants.
//!
//! A role, a server or a pooler may allow fewer connections than a worker would use. The pool of sqlx then waits half a
//! minute for another one while those that there are stand idle, and no pool of another library becomes smaller. Here
//! calls share the connections that there are, and from time to time one more is tried.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Connections at most, unless others are set. A look at an order holds one for milliseconds; nine workers fit into the
/// hundred connections that a server takes as it is installed.
pub(crate) const DEFAULT_CONNECTIONS: u16 = 10;
/// Connections at most, whatever is set.
pub(crate) const MAX_CONNECTIONS: u16 = 200;
/// How long a call waits for its turn.
const FREE_WITHIN: Duration = Duration::from_secs(30);
/// How long a new connection may take, and the answer of one that was idle.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// A connection that was used so recently is not asked whether it answers.
const SURELY_ANSWERS: Duration = Duration::from_secs(1);
/// An idle connection is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);
/// When one more connection is tried after the server has refused one; doubled each time, …
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// … up to this.
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// Refusals within so long of each other are one.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A pool of connections, see the module. Clones share it.
#[derive(Debug, Clone)]
pub(in crate::orders) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: PgConnectOptions,
    /// What is set on each connection.
    settings: Vec<&'static str>,
    /// A permit for each connection that there may be. Calls get them in the order in which they ask.
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// With the time of their last use, the last used one last.
    idle: Vec<(PgConnection, Instant)>,
    /// Those that are idle or in use.
    open: usize,
    /// How many there may be, as far as is known.
    granted: usize,
    /// How many there may be, as it is set.
    most: usize,
    /// What `granted` was when it was last logged.
    logged: usize,
    /// When a connection was last refused; none since one more was tried.
    refused_at: Option<Instant>,
    pause: Duration,
    /// When one more is tried.
    tries_at: Instant,
}

impl Connections {
    /// Makes the first connection.
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

    /// Has at most so many connections from now on; to be called before they are used.
    pub(super) fn limit(&self, most: usize) {
        let mut state = self.0.state();
        self.0.places.add_permits(most.saturating_sub(state.granted));
        self.0.places.forget_permits(state.granted.saturating_sub(most));
        (state.most, state.granted, state.logged) = (most, most, most);
    }

    /// Lends a connection to one call.
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
                // A pooler lets a client wait whose turn has not come.
                Err(_elapsed) => sqlx::Error::PoolTimedOut,
            };
            if !self.0.state().makes_do() {
                return Err(error);
            }
            // There is no connection for it.
            place.forget();
        }
    }

    fn lend(&self, connection: PgConnection) -> Lent {
        Lent { connection: Some(connection), is_in_use: false, home: Arc::clone(&self.0) }
    }

    /// Closes those that are idle.
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

    /// The idle connection that was used last, with the time of that.
    fn idle(&self) -> Option<(PgConnection, Instant)> {
        self.state().idle.pop()
    }

    /// Closes connections that were idle for long, says what has changed, and lets one more be tried where it is time.
    fn tend(&self) {
        let mut state = self.state();
        let (now, before) = (Instant::now(), state.idle.len());
        state.idle.retain(|(_, used_at)| now - *used_at < IDLE_TIMEOUT);
        state.open -= before - state.idle.len();
        state.log();
        if state.granted < state.most && now >= state.tries_at {
            if state.refused_at.take().is_none() {
                // The one that was tried before was not refused.
                state.pause = FIRST_PAUSE;
            }
            state.granted += 1;
            state.tries_at = now + state.pause;
            self.places.add_permits(1);
        }
    }
}

impl State {
    /// Does without the connection that was refused, where there are others. Returns whether that is so.
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

    /// Says how many there may be, where that has changed.
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
                "the database gives this worker fewer connections than it would use; it works with those"
            );
        } else if self.open == wanted && self.logged < wanted {
            self.logged = connections;
            tracing::info!(connections, "the database gives this worker all its connections again");
        }
    }
}

/// Whether the server, or a pooler, has no place for another connection.
fn is_of_too_many(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    // too_many_connections, and what PgBouncer calls its own limits.
    code.is_some_and(|code| ["53300", "08P01"].contains(&&*code))
}

/// A connection and its place, until it is dropped.
#[derive(Debug)]
pub(in crate::orders) struct Connection {
    // In this order: the connection is idle before its place is free.
    lent: Lent,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Carries out statements.
    pub(super) async fn execute(&mut self, statements: &'static str) -> Result<(), sqlx::Error> {
        self.in_use().execute(statements).await?;
        Ok(())
    }

    /// What statements are carried out on, until [`Connection::done`] is called.
    pub(super) fn in_use(&mut self) -> &mut PgConnection {
        self.lent.in_use()
    }

    /// Nothing is under way any more.
    pub(super) fn done(&mut self) {
        self.lent.is_in_use = false;
    }
}

/// A connection in use. It is closed instead of used again where a statement or a transaction on it has not ended.
#[derive(Debug)]
struct Lent {
    /// None with its end.
    connection: Option<PgConnection>,
    is_in_use: bool,
    home: Arc<Inner>,
}

impl Lent {
    fn in_use(&mut self) -> &mut PgConnection {
        self.is_in_use = true;
        // Invariant: it is taken out when this ends.
        self.connection.as_mut().expect("it is there")
    }

    /// Whether the server answers on it.
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
