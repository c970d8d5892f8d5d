//! A simulator of the provider's HTTP API (`OneClickDz` v3, internet top-ups), for `simulate-api`, the demo
//! and the tests.
//!
//! The real API costs money, cannot be reached from a build machine and takes up to two days to finish an
//! order. This one behaves as the documentation says it does, the contradictions included, at any speed; and
//! it can be set to misbehave in every way that was documented or seen: see [`Fault`].
//!
//! - An order follows a [`Script`]: the test's own, or one drawn from the seed by the [`Mix`].
//! - All waits are domain time, that is real time multiplied by the time scale; only `latency_ms` is real.
//! - [`Simulator::calls`] tells what was asked about an order and when, so a test can hold the worker to its
//!   schedule; [`Simulator::busiest_minute`] and its neighbours tell how the provider's limits were kept.
//!
//! It must not use the worker's own types or code: two sides that share a mistake agree with each other. It
//! keeps all orders in memory and forgets them with the process. It must never log a card code, a phone
//! number or a key.

mod access;
mod clock;
mod envelope;
mod fault;
mod faults;
mod kind;
mod list;
mod mix;
mod orders;
mod routes;
mod script;
mod settings;
#[cfg(test)]
mod tests;
mod traffic;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use self::fault::Fault;
pub use self::kind::Kind;
pub use self::mix::{Mix, MixError};
pub use self::orders::Call;
pub use self::script::{Answer, Script, SimStatus};
pub use self::settings::{ListCard, ListForm, SimulatorSettings};
pub use self::traffic::RequestKind;

use self::access::{Access, Caller};
use self::clock::SimClock;
use self::envelope::{ApiError, Stamp};
use self::faults::Stopping;
use self::orders::{Draft, Orders, Plan};
use self::routes::From;

/// How long answers under way may take once the server was asked to stop; real time.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The simulated provider. Clones share all state.
#[derive(Clone)]
pub struct Simulator {
    shared: Arc<Shared>,
}

struct Shared {
    settings: SimulatorSettings,
    clock: SimClock,
    /// Locked before `access` and `fault_rng` where more than one is needed.
    orders: Mutex<Orders>,
    access: Mutex<Access>,
    /// Apart from the orders' randomness: how often a client asks must not change how an order lives.
    fault_rng: Mutex<StdRng>,
    api_calls: AtomicU64,
    /// What every check is answered with, see [`Simulator::fail`].
    failing: Mutex<Option<Fault>>,
}

/// An order for [`Simulator::create_with`].
#[derive(Clone)]
pub struct NewOrder {
    /// The kind of subscription.
    pub kind: Kind,
    /// Its number; not validated here, so that a test can use any.
    pub number: String,
    /// Amount in dinars.
    pub topup_amount: u64,
    /// The producer's reference; `topup-<id>` if none. A hint in it has no effect here: the script speaks.
    pub reference: Option<String>,
    /// What becomes of the order.
    pub script: Script,
}

impl Simulator {
    /// A provider without orders, whose clock starts now and runs `time_scale` times as fast as the real one.
    /// A scale that is not a positive, finite number counts as 1.
    #[must_use]
    pub fn new(settings: SimulatorSettings, time_scale: f64) -> Self {
        let shared = Shared {
            clock: SimClock::start(time_scale),
            orders: Mutex::new(Orders::new(settings.seed)),
            access: Mutex::new(Access::default()),
            fault_rng: Mutex::new(StdRng::seed_from_u64(settings.seed)),
            api_calls: AtomicU64::new(0),
            failing: Mutex::default(),
            settings,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The routes of the API. Under a server other than [`serve`], [`Fault::Hang`] hangs until the client gives up, and
    /// all requests come from one address unless the server tells the address.
    pub fn router(&self) -> Router {
        routes::router(self.clone())
    }

    /// Creates an order that follows `script` and returns its `topupId`, 24 hex digits. It is an ADSL order
    /// of 1000 dinars for the number of the documentation's samples.
    #[expect(clippy::must_use_candidate, reason = "the order is created whether or not anyone wants its id")]
    pub fn create(&self, script: Script) -> String {
        self.create_sample(Plan::Script(script))
    }

    /// As [`create`](Self::create), with a life drawn from the mix, as that of an order sent without a hint. The
    /// provider counts no request for it.
    #[expect(clippy::must_use_candidate, reason = "the order is created whether or not anyone wants its id")]
    pub fn create_drawn(&self) -> String {
        self.create_sample(Plan::Drawn(self.settings().mix))
    }

    /// Creates this order and returns its `topupId`.
    #[expect(clippy::must_use_candidate, reason = "the order is created whether or not anyone wants its id")]
    pub fn create_with(&self, order: NewOrder) -> String {
        let NewOrder { kind, number, topup_amount, reference, script } = order;
        self.insert(Draft { kind, number, topup_amount, reference, plan: Plan::Script(script) }).0
    }

    /// Has the order follow this script from now on. Its age goes on. Nothing happens for an unknown order.
    pub fn set_script(&self, topup_id: &str, script: Script) {
        self.with_orders(|orders, _, _| {
            if let Some(order) = orders.by_id_mut(topup_id) {
                order.script = script;
            }
        });
    }

    /// How long, in domain time, the order is `HANDLING` no longer; none as long as it is.
    #[must_use]
    pub fn decided_for(&self, topup_id: &str) -> Option<Duration> {
        self.with_orders(|orders, now, _| {
            let order = orders.by_id(topup_id)?;
            order.age(now).checked_sub(order.script.decided_at()?)
        })
    }

    /// Every check of this order by id or reference, oldest first: the age of the order then, and what was
    /// answered. Checks that were refused for their key or the rate limit are included; none for an unknown
    /// order.
    #[must_use]
    pub fn calls(&self, topup_id: &str) -> Vec<Call> {
        self.with_orders(|orders, _, _| {
            orders.by_id(topup_id).map(|order| order.calls.clone()).unwrap_or_default()
        })
    }

    /// Requests to any path under `/v3/` so far, the refused ones included.
    #[must_use]
    pub fn total_calls(&self) -> u64 {
        self.shared.api_calls.load(Ordering::Relaxed)
    }

    /// The true state of the order now; faults and the answers of [`Script::first`] do not show in it.
    #[must_use]
    pub fn status(&self, topup_id: &str) -> Option<SimStatus> {
        self.with_orders(|orders, now, _| orders.by_id(topup_id).map(|order| order.truth(order.age(now))))
    }

    /// The card code the order has or will have, so that a test can look for it where it must not be.
    #[must_use]
    pub fn card_code(&self, topup_id: &str) -> Option<String> {
        self.with_orders(|orders, _, _| orders.by_id(topup_id).map(|order| order.card_code.clone()))
    }

    /// Shows another card of this order from now on. Nothing happens for an unknown order.
    pub fn replace_card(&self, topup_id: &str, card_code: &str) {
        self.with_orders(|orders, _, _| {
            if let Some(order) = orders.by_id_mut(topup_id) {
                card_code.clone_into(&mut order.card_code);
            }
        });
    }

    /// Refuses this key from now on, as if the merchant had revoked it.
    pub fn revoke_key(&self, key: &str) {
        lock(&self.shared.access).revoke(key);
    }

    /// Answers every check with this fault from now on, whatever the order; none ends that. The list is answered as
    /// before where orders are only unknown, otherwise with `500 INTERNAL_ERROR`.
    pub fn fail(&self, fault: Option<Fault>) {
        *lock(&self.shared.failing) = fault;
    }

    fn fails(&self) -> bool {
        lock(&self.shared.failing).as_ref().is_some_and(|fault| *fault != Fault::NotFound404)
    }

    /// Accepts a revoked key again.
    pub fn restore_key(&self, key: &str) {
        lock(&self.shared.access).restore(key);
    }

    fn settings(&self) -> &SimulatorSettings {
        &self.shared.settings
    }

    fn count_call(&self) {
        self.shared.api_calls.fetch_add(1, Ordering::Relaxed);
    }

    fn create_sample(&self, plan: Plan) -> String {
        let number = "036362608".to_owned();
        self.insert(Draft { kind: Kind::Adsl, number, topup_amount: 1000, reference: None, plan }).0
    }

    fn insert(&self, draft: Draft) -> (String, String) {
        lock(&self.shared.orders).create(draft, &self.shared.clock)
    }

    /// Runs `act` on the orders at one moment. Time is read under the lock, so ages never run backwards.
    fn with_orders<T>(&self, act: impl FnOnce(&mut Orders, Duration, &SimClock) -> T) -> T {
        let mut orders = lock(&self.shared.orders);
        act(&mut orders, self.shared.clock.elapsed(), &self.shared.clock)
    }

    fn admit(&self, from: &From, kind: RequestKind) -> Result<(), ApiError> {
        let token = from.headers.get("x-access-token").map(axum::http::HeaderValue::as_bytes);
        let caller = Caller { token, address: from.address };
        lock(&self.shared.access).admit(self.settings(), caller, kind, self.shared.clock.elapsed())
    }

    fn draw_fault(&self) -> Option<Fault> {
        if let Some(fault) = lock(&self.shared.failing).clone() {
            return Some(fault);
        }
        Fault::draw(self.settings().error_rate, &mut lock(&self.shared.fault_rng))
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            timestamp: self.shared.clock.timestamp(self.shared.clock.elapsed()),
            request_id: format!("req_{:016x}", rand::random::<u64>()),
        }
    }
}

/// By hand, because orders hold cards and numbers.
impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

/// By hand, because a phone number must never reach a log.
impl fmt::Debug for NewOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewOrder")
            .field("kind", &self.kind)
            .field("script", &self.script)
            .finish_non_exhaustive()
    }
}

/// A panic elsewhere must not take the simulator down with it: its state is whole between any two statements
/// that matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the simulator until `shutdown` is done, then gives answers under way one second and lets go of the
/// rest.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    simulator: Simulator,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stop, mut stopped) = watch::channel(false);
    let app = simulator.router().layer(Extension(Stopping(stopped.clone())));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, app).with_graceful_shutdown(async move {
        shutdown.await;
        stop.send_replace(true);
    });
    let too_late = async {
        // An error means that the server is gone, and `served` says how.
        drop(stopped.wait_for(|stop| *stop).await);
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        result = served.into_future() => result,
        () = too_late => Ok(()),
    }
}
