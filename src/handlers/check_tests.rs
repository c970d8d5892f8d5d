//! Single checks of an order, with a scripted budget and provider and a manual clock.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use topup_jobs::{
    Instruction, InstructionKind, Jitter, PollStrategy, ProviderOrder, Timestamp, TopupId, TopupStatus,
};

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::handlers::{give_up, seen_in_list};
use crate::notify::{Bulkhead, CardForm, Channel, Channels, Delivery, SendError};
use crate::orders::{self, CardCipher, NotificationStatus};
use crate::provider::{Answer, ApiError, OrderList, TopupApi};
use crate::rate_limit::{Budget, Checked, Meaning, Permit, PermitDecision, PermitRequest};
use crate::slots::Slots;
use crate::telemetry::Metrics;

const SECOND: Duration = Duration::from_secs(1);
const ID: &str = "6901616fe9e88196b4eb64b2";

/// A budget with scripted decisions. After a request with API key 1, the budget reports that another key takes over.
struct Written {
    decisions: Mutex<VecDeque<PermitDecision>>,
    requests: Mutex<Vec<PermitRequest>>,
    clock: Arc<ManualClock>,
}

#[async_trait]
impl Budget for Written {
    async fn acquire(&self, request: &PermitRequest) -> PermitDecision {
        self.requests.lock().unwrap().push(request.clone());
        self.decisions.lock().unwrap().pop_front().unwrap()
    }

    async fn acquire_for_page(&self) -> Result<Permit, Duration> {
        unreachable!("no handler reads the list")
    }

    fn is_refused(&self) -> bool {
        false
    }

    async fn wait_for_contention(&self) {
        unreachable!("no handler reads the list")
    }

    /// Every wait for a request to end takes a second.
    fn has_request_in_flight(&self) -> bool {
        self.clock.advance(1);
        true
    }

    /// Without a sender, so that a wait ends at once.
    fn ended_requests(&self) -> watch::Receiver<()> {
        watch::channel(()).1
    }

    async fn acquire_to_verify(&self) -> Result<Permit, Duration> {
        Ok(Permit { number: "2".to_owned(), key: 0, probe: false, waited: Duration::ZERO })
    }

    async fn report(&self, permit: &Permit, _: Option<Checked<'_>>, error: Option<&ApiError>) -> Meaning {
        match error {
            _ if permit.key == 1 => Meaning::SaysNothing(Duration::ZERO),
            Some(error) if error.says_nothing() => Meaning::Failing(1),
            _ => Meaning::AboutOrder,
        }
    }

    async fn completed(&self, _: Duration, _: Duration) {}
}

struct Refusing;

#[async_trait]
impl TopupApi for Refusing {
    async fn check_id(&self, _: &TopupId) -> Result<ProviderOrder, ApiError> {
        Err(ApiError::Unauthorized(Answer::default()))
    }

    async fn list(&self, _: u32, _: Timestamp, _: Timestamp) -> Result<OrderList, ApiError> {
        unreachable!("no handler reads the list")
    }

    async fn verify(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

/// Answers every check with this status.
struct Answering(TopupStatus);

#[async_trait]
impl TopupApi for Answering {
    async fn check_id(&self, _: &TopupId) -> Result<ProviderOrder, ApiError> {
        Ok(ProviderOrder::new(self.0.clone()))
    }

    async fn list(&self, _: u32, _: Timestamp, _: Timestamp) -> Result<OrderList, ApiError> {
        unreachable!("no handler reads the list")
    }

    async fn verify(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

struct Tracked {
    env: Environment,
    clock: Arc<ManualClock>,
    budget: Arc<Written>,
    payload: TrackTopup,
    _folder: TempDir,
}

impl Tracked {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("orders.db").display());
        let cipher = CardCipher::new(&CardCipher::generate_key()).unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp::from_timestamp(1_750_000_000, 0).unwrap()));
        let budget = Arc::new(Written {
            decisions: Mutex::default(),
            requests: Mutex::default(),
            clock: Arc::clone(&clock),
        });
        let env = Environment {
            store: Arc::new(orders::open(&url, cipher).await.unwrap()),
            apis: vec![Arc::new(Answering(TopupStatus::Handling)), Arc::new(Refusing)],
            budget: Arc::clone(&budget) as Arc<dyn Budget>,
            metrics: Metrics::default(),
            channels: Channels::new(Vec::new()),
            bulkhead: Bulkhead::new(Slots::new(1, 0), |wait| wait),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            strategy: PollStrategy::Adaptive,
            links: None,
            jitter: || Jitter::new(0.0),
            recordings: TaskTracker::new(),
        };
        Self { env, clock, budget, payload: TrackTopup::new(ID.parse().unwrap()), _folder: folder }
    }

    /// Runs `poll-topup` with this decision of the budget and returns the wait until its next run.
    async fn check_with(&mut self, decision: PermitDecision) -> Duration {
        self.budget.decisions.lock().unwrap().push_back(decision);
        let job = Job { id: ID.to_owned(), attempts_made: 0, payload: self.payload.clone() };
        let settlement = check(&self.env, JobName::PollTopup, &job).await;
        let (payload, wait) = if let Disposition::Snooze(wait) = settlement.disposition {
            (settlement.payload, wait)
        } else {
            let next = settlement.next.into_iter().next().expect("it is tracked");
            assert_eq!(next.job, JobName::PollTopup);
            (Some(next.payload), next.delay)
        };
        if let Some(payload) = payload {
            self.payload = serde_json::from_slice(&payload).unwrap();
        }
        wait
    }

    async fn recheck(&self) {
        self.budget.decisions.lock().unwrap().push_back(ask(0));
        let job = Job { id: ID.to_owned(), attempts_made: 0, payload: self.payload.clone() };
        let settlement = check(&self.env, JobName::RecheckTopup, &job).await;
        assert_eq!(settlement.next[0].job, JobName::PollTopup, "HANDLING once more");
    }

    /// Seconds of fast polling, as stored.
    async fn polled_for(&self) -> i64 {
        let order = self.env.store.order(&self.payload.topup_id).await.unwrap().unwrap();
        (self.clock.now() - order.tracking.polling_since).num_seconds()
    }
}

fn ask(key: usize) -> PermitDecision {
    PermitDecision::Granted(Permit { number: "1".to_owned(), key, probe: false, waited: Duration::ZERO })
}

#[tokio::test]
async fn time_without_a_permit_does_not_count_as_polling() {
    let mut tracked = Tracked::new().await;
    assert_eq!(tracked.check_with(ask(0)).await, 3 * SECOND);
    tracked.clock.advance(3);
    tracked.check_with(PermitDecision::Wait(30 * SECOND)).await;
    // The job runs after its scheduled time, because no worker was running.
    tracked.clock.advance(100);
    tracked.check_with(PermitDecision::Blocked(30 * SECOND)).await;
    tracked.clock.advance(100);
    assert_eq!(tracked.check_with(ask(1)).await, Duration::ZERO, "another key takes over");
    tracked.clock.advance(200);
    assert_eq!(tracked.check_with(ask(0)).await, 3 * SECOND);
    assert_eq!(tracked.polled_for().await, 3, "of 403 s");
    assert_eq!(tracked.payload.waited, Waited::default(), "the store holds the wait");
}

#[tokio::test]
async fn an_order_waits_two_seconds_for_a_request_in_flight_to_end_and_this_time_does_not_count() {
    let mut tracked = Tracked::new().await;
    assert_eq!(tracked.check_with(ask(0)).await, 3 * SECOND);
    tracked.clock.advance(3);
    let full = |wait| PermitDecision::Full(wait);
    tracked.budget.decisions.lock().unwrap().extend([full(SECOND), full(SECOND)]);
    assert_eq!(tracked.check_with(ask(0)).await, 3 * SECOND, "it gets the place of an ended request");
    assert_eq!(tracked.polled_for().await, 3, "2 of 5 s waited");
    tracked.budget.decisions.lock().unwrap().extend([full(SECOND), full(SECOND)]);
    assert_eq!(tracked.check_with(full(SECOND)).await, SECOND, "it goes back to its queue");
    assert_eq!(tracked.check_with(full(3 * SECOND)).await, 3 * SECOND, "it would wait too long");
    assert_eq!(tracked.budget.requests.lock().unwrap().len(), 1 + 3 + 3 + 1);
}

#[tokio::test]
async fn time_without_a_permit_does_not_count_where_the_list_then_shows_the_order() {
    let mut tracked = Tracked::new().await;
    for _ in 0..2 {
        tracked.check_with(PermitDecision::Wait(30 * SECOND)).await;
        tracked.clock.advance(200);
        tracked.check_with(PermitDecision::SeenInList).await;
        tracked.clock.advance(5);
    }
    tracked.check_with(ask(0)).await;
    assert_eq!(tracked.polled_for().await, 10, "of 410 s");
}

#[tokio::test]
async fn the_last_check_before_fast_polling_ends_is_not_left_to_the_list() {
    let mut tracked = Tracked::new().await;
    for (later, list_counts) in [(0, true), (289, true), (2, false)] {
        tracked.clock.advance(later);
        tracked.check_with(PermitDecision::Wait(SECOND)).await;
        let request = tracked.budget.requests.lock().unwrap().pop().unwrap();
        assert_eq!(request.list_counts, list_counts, "{:?}", request.age);
        // Time in `waited` does not count as fast polling. It is cleared, so that fast polling approaches its end.
        tracked.payload.waited = Waited::default();
    }
}

#[tokio::test]
async fn a_second_queued_row_of_the_list_changes_nothing() {
    let mut tracked = Tracked::new().await;
    let queued = || ProviderOrder::new(TopupStatus::Queued);
    tracked.check_with(PermitDecision::Wait(SECOND)).await;
    let id = tracked.payload.topup_id.clone();
    assert!(seen_in_list(&tracked.env, &id, queued()).await.unwrap(), "its job should run now");
    tracked.clock.advance(24 * 3_600);
    tracked.recheck().await;
    assert!(!seen_in_list(&tracked.env, &id, queued()).await.unwrap());
    let order = tracked.env.store.order(&id).await.unwrap().unwrap();
    assert_eq!(order.tracking.status, OrderStatus::Handling, "as check-id says");
}

#[tokio::test]
async fn the_job_of_an_order_that_was_given_up_is_dead_lettered_without_a_request() {
    let mut tracked = Tracked::new().await;
    tracked.check_with(ask(0)).await;
    let (env, id) = (&tracked.env, &tracked.payload.topup_id);
    let reason = "poison: the process that ran it died 3 times";
    give_up(env, id, reason).await.unwrap();
    // No decision is scripted for the budget, so `check` would panic if it requested a permit.
    let job = Job { id: ID.to_owned(), attempts_made: 0, payload: tracked.payload.clone() };
    let settlement = check(env, JobName::PollTopup, &job).await;
    assert_eq!(settlement.disposition, Disposition::DeadLetter(reason.to_owned()));
    let payload: TrackTopup = serde_json::from_slice(&settlement.payload.unwrap()).unwrap();
    assert_eq!(payload, tracked.payload);
    // A new hand-over tracks the order again.
    tracked.payload = TrackTopup::new(id.clone());
    assert_eq!(tracked.check_with(ask(0)).await, 3 * SECOND);
}

#[tokio::test]
async fn the_job_of_a_cancelled_order_completes_without_a_request() {
    let mut tracked = Tracked::new().await;
    tracked.check_with(ask(0)).await;
    let cancel = Instruction::new(InstructionKind::Cancel);
    let request = TrackTopup {
        message_id: Some("9-0".to_owned()),
        instruction: Some(cancel),
        ..TrackTopup::new(ID.parse().unwrap())
    };
    let job = NextJob::instruct(request.clone(), "9-0");
    assert_eq!(other_id_of_order(job.id.as_bytes(), &job.payload), None, "it keeps its own id");
    let payload = encode(&tracked.payload);
    assert!(names_first(ID.as_bytes(), &payload), "payloads that workers write are not parsed");
    assert_eq!(other_id_of_order(ID.as_bytes(), &payload), None);
    let anywhere = format!(r#" {{"tracked_at":null, "topupId":"{ID}"}}"#);
    for payload in [payload.as_slice(), anywhere.as_bytes()] {
        assert_eq!(other_id_of_order(b"pushed", payload).as_deref(), Some(ID));
    }
    assert_eq!(other_id_of_order(b"pushed", b"no JSON"), None);
    tracked.env.store.instruct(&request, cancel, tracked.clock.now()).await.unwrap().unwrap();
    // No decision is scripted for the budget, so `check` would panic if it requested a permit, even with `force`.
    for force in [false, true] {
        let payload = TrackTopup { force, ..tracked.payload.clone() };
        let job = Job { id: ID.to_owned(), attempts_made: 0, payload };
        assert_eq!(check(&tracked.env, JobName::PollTopup, &job).await.disposition, Disposition::Complete);
    }
    assert_eq!(give_up(&tracked.env, &request.topup_id, "poison").await.unwrap(), []);
}

/// A channel that records the events it gets, or fails.
struct Recording {
    name: &'static str,
    is_local: bool,
    fails: bool,
    sent: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Channel for Recording {
    fn name(&self) -> &'static str {
        self.name
    }

    fn wants(&self, _: Outcome, _: &Order) -> bool {
        true
    }

    fn repeat_is_harmless(&self) -> bool {
        self.is_local
    }

    fn card_form(&self) -> CardForm {
        CardForm::Nothing
    }

    async fn send(&self, delivery: Delivery<'_>) -> Result<(), SendError> {
        if self.fails {
            return Err(SendError::Failed { what: "it fails".to_owned(), retry_after: None });
        }
        self.sent.lock().unwrap().push(format!("{} {}", self.name, delivery.event_id));
        Ok(())
    }
}

#[tokio::test]
async fn local_channels_get_an_event_within_the_job_that_stores_it_and_other_channels_get_a_job() {
    let mut tracked = Tracked::new().await;
    let sent: Arc<Mutex<Vec<String>>> = Arc::default();
    let channel = |name, is_local, fails| {
        Arc::new(Recording { name, is_local, fails, sent: Arc::clone(&sent) }) as Arc<dyn Channel>
    };
    let channels =
        vec![channel("events", true, false), channel("log", true, true), channel("webhook", false, false)];
    tracked.env.channels = Channels::new(channels);
    tracked.env.apis = vec![Arc::new(Answering(TopupStatus::Refunded))];
    tracked.budget.decisions.lock().unwrap().push_back(ask(0));
    let job = || Job { id: ID.to_owned(), attempts_made: 0, payload: tracked.payload.clone() };
    let settlement = check(&tracked.env, JobName::PollTopup, &job()).await;
    let jobs = |settlement: &Settlement| settlement.next.iter().map(|job| job.id.clone()).collect::<Vec<_>>();
    let of = |channel: &str| format!("{ID}:refunded:{channel}");
    assert_eq!(jobs(&settlement), [of("log"), of("webhook")]);
    assert_eq!(*sent.lock().unwrap(), [format!("events evt_{ID}_refunded")]);
    // The job runs again after a crash: as long as the result is not recorded, a job sends the event once more.
    let again = check(&tracked.env, JobName::PollTopup, &job()).await;
    assert_eq!(jobs(&again), [of("events"), of("log"), of("webhook")]);
    tracked.env.recordings.close();
    tracked.env.recordings.wait().await;
    let stored = tracked.env.store.notifications(&tracked.payload.topup_id).await.unwrap();
    let status = |channel: &str| {
        let it = stored.iter().find(|it| it.channel == channel).unwrap();
        (it.status, it.attempts, it.sent_at)
    };
    assert_eq!(status("events"), (NotificationStatus::Sent, 1, Some(tracked.clock.now())));
    assert_eq!(status("log"), (NotificationStatus::Pending, 0, None));
    let at_last = check(&tracked.env, JobName::PollTopup, &job()).await;
    assert_eq!(jobs(&at_last), [of("log"), of("webhook")]);
}
