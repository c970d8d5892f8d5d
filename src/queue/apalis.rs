//! The adapter to apalis, and the only module that knows the types of apalis. [`QueueBackend`] feeds an apalis worker
//! with claimed jobs. [`SettleLayer`] removes the lease from each job before the handler gets the job, and settles it
//! with the handler's result. Each handler runs as its own task, so that all cores are used and a panic ends only that
//! task. A suspect (a job that may have killed its worker) runs in an isolated process, see `quarantine`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use apalis::prelude::{
    Backend, BoxDynError, Monitor, Task, TaskBuilder, TaskId, Worker, WorkerBuilder, WorkerContext,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::task::AbortOnDropHandle;
use topup_jobs::JobName;
use tower::{Layer, Service};
use tracing::Instrument;

use super::isolation::IsolatedJob;
use super::lease::{ClaimedJob, Lease, SettlingEnd};
use super::quarantine::Quarantine;
use super::running::{carry_out, run_payload};
use super::shared::MAX_CRASHES;
use super::suspect;
use crate::job::{Disposition, Handler, Settlement};

/// Wait before a job runs again if its isolated process did not start or was stopped, which is not the job's fault.
const UNPROVEN: Duration = Duration::from_secs(2);
/// After this many panics or timeouts of its handler in a row, a job becomes a dead letter.
const MAX_FAULTS: u32 = 3;

/// The source of an apalis worker: jobs that the consumer has claimed.
#[derive(Debug)]
pub(super) struct QueueBackend {
    jobs: Arc<Mutex<UnboundedReceiver<ClaimedJob>>>,
    layer: SettleLayer,
    /// Dropped with the apalis worker. [`register`] returns a weak reference to it, which shows if the worker runs.
    _running: Option<Arc<()>>,
}

impl Backend for QueueBackend {
    type Task = Task<ClaimedJob>;
    type Error = Infallible;

    fn poll_ready(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Infallible>>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.poll_recv(cx).map(|job| {
            job.map(|job| {
                let id = TaskId::from_string(String::from_utf8_lossy(&job.id));
                let attempts_made = usize::try_from(job.attempts_made).unwrap_or(usize::MAX);
                Ok(TaskBuilder::new(job).task_id(id).attempt(attempts_made).build())
            })
        })
    }

    fn poll_close(&mut self, _: &mut Context<'_>, _: &WorkerContext) -> Poll<Result<(), Infallible>> {
        // Nothing to do here: once all leases are dropped, the consumer removes the worker from the queue.
        Poll::Ready(Ok(()))
    }
}

impl apalis_core::backend::BackendConfig for QueueBackend {
    type Args = ClaimedJob;
    type Id = String;
    type Kind = apalis_core::backend::finalize::Ephemeral;
    type Config = ();
    type Layer = SettleLayer;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> SettleLayer {
        self.layer.clone()
    }
}

#[derive(Debug, Clone)]
pub(super) struct SettleLayer {
    name: JobName,
    quarantine: Option<Quarantine>,
}

impl<S> Layer<S> for SettleLayer {
    type Service = SettleService<S>;

    fn layer(&self, handler: S) -> SettleService<S> {
        SettleService { handler, layer: self.clone() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct SettleService<S> {
    handler: S,
    layer: SettleLayer,
}

impl<S> Service<Task<ClaimedJob>> for SettleService<S>
where
    S: Service<Task<ClaimedJob>, Response = Settlement, Error = BoxDynError>,
    S::Future: Send + 'static,
{
    type Response = ();
    type Error = BoxDynError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxDynError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        self.handler.poll_ready(cx)
    }

    fn call(&mut self, mut task: Task<ClaimedJob>) -> Self::Future {
        let (lease, faults) = (task.args.lease.take(), task.args.faults);
        let suspect = self.layer.suspect(&task.args);
        let handling = self.handler.call(task);
        Box::pin(async move {
            let end = match suspect {
                Some((quarantine, job, crashes)) => run_apart(&quarantine, job, crashes, faults).await,
                None => None,
            };
            match end {
                Some(end) => settle(lease, end),
                None => run_as_task(handling, faults, lease).await,
            }
            Ok(())
        })
    }
}

impl SettleLayer {
    /// Builds the job of an isolated process from a suspect, and returns it with the suspect's number of crashes. Returns
    /// `None` for any other job.
    fn suspect(&self, job: &ClaimedJob) -> Option<(Quarantine, IsolatedJob, u32)> {
        let quarantine = self.quarantine.clone().filter(|_| job.suspect || job.crashes > 0)?;
        let id = String::from_utf8_lossy(&job.id).into_owned();
        let payload = job.payload.clone()?;
        Some((quarantine, IsolatedJob::new(self.name, id, job.attempts_made, payload), job.crashes))
    }
}

/// Runs a handler as a task, which also settles the job.
async fn run_as_task<F>(handling: F, faults: u32, lease: Option<Lease>)
where
    F: Future<Output = Result<Settlement, BoxDynError>> + Send + 'static,
{
    let task = async move {
        let end = match carry_out(handling).await {
            Ok(settlement) => SettlingEnd::Settled(settlement),
            Err(what) => fault(what, faults),
        };
        settle(lease, end);
    };
    // If the task itself fails, its lease is dropped and the job goes back to its queue.
    drop(AbortOnDropHandle::new(tokio::spawn(task.in_current_span())).await);
}

fn settle(lease: Option<Lease>, end: SettlingEnd) {
    if let Some(lease) = lease {
        lease.settle(end);
    }
}

/// Runs a suspect in an isolated process. Returns `None` if no process can be started; the job then runs in the worker.
async fn run_apart(
    quarantine: &Quarantine,
    job: IsolatedJob,
    crashes: u32,
    faults: u32,
) -> Option<SettlingEnd> {
    let (name, id) = (job.name, job.id().to_owned());
    let wait = |wait| Some(SettlingEnd::Settled(Settlement::new(Disposition::Snooze(wait))));
    match quarantine.run(job, crashes > 0).await {
        suspect::Verdict::Settled(settlement) => Some(SettlingEnd::Settled(settlement)),
        suspect::Verdict::Failed(what) => Some(fault(&what, faults)),
        suspect::Verdict::Killed(how) => {
            let crashes = crashes + 1;
            let poison = crashes >= MAX_CRASHES;
            tracing::error!(job.name = %name, job.id = id, crashes, poison, how, "the isolated process that ran only this job died; the job runs again, or is dead-lettered if `poison` is true");
            Some(SettlingEnd::Crashed)
        }
        suspect::Verdict::Inconclusive(why) => {
            tracing::warn!(job.name = %name, job.id = id, why, "the isolated process of this job did not start or was stopped; this is not the job's fault, and the job runs again");
            wait(UNPROVEN)
        }
        // Too many suspects run already. This one goes back to the queue, as it would hold a slot that other jobs need.
        suspect::Verdict::NoPlace(turn) => wait(turn),
        suspect::Verdict::NoProcess(why) => {
            let what = "cannot isolate a job that may have killed its worker; the job runs in this worker";
            tracing::error!(job.name = %name, job.id = id, why, "{what}");
            None
        }
    }
}

/// Returns the result of a job whose handler panicked or took too long: a retry, or a dead letter at [`MAX_FAULTS`].
fn fault(what: &str, faults: u32) -> SettlingEnd {
    tracing::error!(faults = faults + 1, "{what}; after {MAX_FAULTS} faults the job is dead-lettered");
    if faults + 1 >= MAX_FAULTS {
        SettlingEnd::Condemned(format!("{what}, {MAX_FAULTS} times"))
    } else {
        SettlingEnd::Fault(Duration::from_secs(1 << faults), what.to_owned())
    }
}

/// Adds to the monitor an apalis worker that runs the handler. Once it has ended, the returned weak reference is dead.
pub(super) fn register<H: Handler>(
    monitor: Monitor,
    jobs: UnboundedReceiver<ClaimedJob>,
    handler: H,
    quarantine: Option<Quarantine>,
) -> (Monitor, Weak<()>) {
    let layer = SettleLayer { name: H::NAME, quarantine };
    let running = Arc::new(());
    let watched = Arc::downgrade(&running);
    let (jobs, handler) = (Arc::new(Mutex::new(jobs)), Arc::new(handler));
    let running = Mutex::new(Some(running));
    let monitor = monitor.register(move |_| {
        let running = running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (jobs, layer) = (Arc::clone(&jobs), layer.clone());
        worker(QueueBackend { jobs, layer, _running: running }, Arc::clone(&handler))
    });
    (monitor, watched)
}

fn worker<H: Handler>(
    backend: QueueBackend,
    handler: Arc<H>,
) -> Worker<
    ClaimedJob,
    QueueBackend,
    impl Service<
        Task<ClaimedJob>,
        Response = Settlement,
        Error = BoxDynError,
        Future = impl Future<Output = Result<Settlement, BoxDynError>> + Send + 'static,
    > + Send
    + 'static,
    tower::layer::util::Identity,
> {
    WorkerBuilder::new(H::NAME.as_str()).backend(backend).build(move |job: ClaimedJob| {
        let handler = Arc::clone(&handler);
        async move { Ok::<_, BoxDynError>(run(&*handler, job).await) }
    })
}

async fn run<H: Handler>(handler: &H, job: ClaimedJob) -> Settlement {
    let id = String::from_utf8_lossy(&job.id).into_owned();
    run_payload(handler, id, job.attempts_made, job.payload.as_deref()).await
}
