//! A simulator of the provider's HTTP API (`OneClickDz` v3, internet top-ups), for `simulate-api`, the demo and tests.
//!
//! The real API costs money, cannot be reached from a build machine and takes up to two days to finish an order. The
//! simulator follows the provider's documentation at any speed, contradictions included, and can produce every
//! documented or observed failure ([`Fault`]). An order follows a [`Script`], given by a test or drawn by the [`Mix`].
//! All waits are domain time, which is real time multiplied by the time scale; only `latency_ms` is real time.
//!
//! The simulator must not use the worker's types or code: if both had the same mistake, no test would show it. It
//! keeps all orders in memory only, and must never log a card code, a phone number or a key.

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

/// How long open responses may take to finish after the server is asked to stop, in real (not scaled) time.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The simulated provider. Clones share all state.
#[derive(Clone)]
pub struct Simulator {
    shared: Arc<Shared>,
}

struct Shared {
    settings: SimulatorSettings,
    clock: SimClock,
    /// Code that also locks `access` or `fault_rng` locks `orders` first, so that no deadlock arises.
    orders: Mutex<Orders>,
    access: Mutex<Access>,
    /// Generator for faults. Orders have their own, so that the number of checks does not change an order's answers.
    fault_rng: Mutex<StdRng>,
    api_calls: AtomicU64,
    /// The fault that answers every check, see [`Simulator::fail`].
    failing: Mutex<Option<Fault>>,
}

/// An order for [`Simulator::create_with`].
#[derive(Clone)]
pub struct NewOrder {
    /// Kind of subscription, ADSL or 4G.
    pub kind: Kind,
    /// Phone number of the subscription. It is not validated, so that a test can use any text.
    pub number: String,
    /// Amount in dinars.
    pub topup_amount: u64,
    /// The producer's reference; `topup-<id>` if absent. A hint in it, such as `sim-queued`, does not change `script`.
    pub reference: Option<String>,
    /// The answers that the order gives as it ages.
    pub script: Script,
}

impl Simulator {
    /// Creates a provider without orders. Domain time is `time_scale` times real time (1 if not positive and finite).
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

    /// The routes of the API. Under a server other than [`serve`], [`Fault::Hang`] lasts until the client disconnects,
    /// and all requests share one address unless the server provides `ConnectInfo`.
    pub fn router(&self) -> Router {
        routes::router(self.clone())
    }

    /// Creates an ADSL order of 1000 dinars that follows `script`, with the phone number of the documentation's
    /// samples. Returns its `topupId`, 24 hex digits.
    #[expect(clippy::must_use_candidate, reason = "the order exists even if its id is not used")]
    pub fn create(&self, script: Script) -> String {
        self.create_sample(Plan::Script(script))
    }

    /// Like [`create`](Self::create), but with a script from the [`Mix`]. The creation is not counted as a request.
    #[expect(clippy::must_use_candidate, reason = "the order exists even if its id is not used")]
    pub fn create_drawn(&self) -> String {
        self.create_sample(Plan::Drawn(self.settings().mix))
    }

    /// Creates this order and returns its `topupId`.
    #[expect(clippy::must_use_candidate, reason = "the order exists even if its id is not used")]
    pub fn create_with(&self, order: NewOrder) -> String {
        let NewOrder { kind, number, topup_amount, reference, script } = order;
        self.insert(Draft { kind, number, topup_amount, reference, plan: Plan::Script(script) }).0
    }

    /// Replaces the order's script; its age does not change. An unknown order is ignored.
    pub fn set_script(&self, topup_id: &str, script: Script) {
        self.with_orders(|orders, _, _| {
            if let Some(order) = orders.by_id_mut(topup_id) {
                order.script = script;
            }
        });
    }

    /// Domain time since the order became `FULFILLED`, `QUEUED` or `REFUNDED`; `None` before, and for an unknown order.
    #[must_use]
    pub fn decided_for(&self, topup_id: &str) -> Option<Duration> {
        self.with_orders(|orders, now, _| {
            let order = orders.by_id(topup_id)?;
            order.age(now).checked_sub(order.script.decided_at()?)
        })
    }

    /// Every check of this order by id or reference, oldest first, refused ones included; none for an unknown order.
    #[must_use]
    pub fn calls(&self, topup_id: &str) -> Vec<Call> {
        self.with_orders(|orders, _, _| {
            orders.by_id(topup_id).map(|order| order.calls.clone()).unwrap_or_default()
        })
    }

    /// Number of requests to paths under `/v3/`, refused ones included.
    #[must_use]
    pub fn total_calls(&self) -> u64 {
        self.shared.api_calls.load(Ordering::Relaxed)
    }

    /// The order's true state now. Faults and the answers of [`Script::first`] do not affect it.
    #[must_use]
    pub fn status(&self, topup_id: &str) -> Option<SimStatus> {
        self.with_orders(|orders, now, _| orders.by_id(topup_id).map(|order| order.truth(order.age(now))))
    }

    /// The card code the order has or will have, so that a test can assert that it does not leak.
    #[must_use]
    pub fn card_code(&self, topup_id: &str) -> Option<String> {
        self.with_orders(|orders, _, _| orders.by_id(topup_id).map(|order| order.card_code.clone()))
    }

    /// Replaces the order's card code. An unknown order is ignored.
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

    /// Answers every check with this fault until `fail(None)`. The list answers `500 INTERNAL_ERROR` meanwhile;
    /// only [`Fault::NotFound404`] leaves the list unchanged.
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

    /// Runs `act` on the locked orders. The time is read under the lock, so ages never decrease.
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

/// Written by hand, because orders hold cards and phone numbers, which must never reach a log.
impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

/// Written by hand, because a phone number must never reach a log.
impl fmt::Debug for NewOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewOrder")
            .field("kind", &self.kind)
            .field("script", &self.script)
            .finish_non_exhaustive()
    }
}

/// Ignores poisoning: a panic in one request leaves the state consistent and must not stop the simulator.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the simulator until `shutdown` completes, then drops responses that are still open after one second.
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
        // The result is ignored: an error means that the server has stopped, and `served` then ends the `select!`.
        drop(stopped.wait_for(|stop| *stop).await);
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        result = served.into_future() => result,
        () = too_late => Ok(()),
    }
}
