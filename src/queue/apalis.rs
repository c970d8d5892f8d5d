//! The adapter to apalis: the only module that knows its types.
//!
//! [`QueueBackend`] feeds an apalis worker with claimed jobs; [`SettleLayer`] takes the lease off each job
//! before the handler sees it and settles with what the handler says. A handler runs as a task of its own,
//! so that handlers use all cores and a panic stays its own; a suspect runs in a process of its own, see
//! `quarantine`.

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

/// The pause before a suspect runs again whose process ended for a reason that was not its own.
const UNPROVEN: Duration = Duration::from_secs(2);
/// A handler that panics or takes too long is tried this often in a row.
const MAX_FAULTS: u32 = 3;

/// The source of an apalis worker: jobs that the consumer has claimed.
#[derive(Debug)]
pub(super) struct QueueBackend {
    jobs: Arc<Mutex<UnboundedReceiver<ClaimedJob>>>,
    layer: SettleLayer,
    /// Gone when the worker that runs on this backend is.
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
        // The consumer leaves the queue itself, after the last lease.
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

/// Settles each job with what its handler says.
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

/// See [`SettleLayer`].
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
    /// The job as it is sent to a process of its own, where it is a suspect.
    fn suspect(&self, job: &ClaimedJob) -> Option<(Quarantine, IsolatedJob, u32)> {
        let quarantine = self.quarantine.clone().filter(|_| job.suspect || job.crashes > 0)?;
        let id = String::from_utf8_lossy(&job.id).into_owned();
        let payload = job.payload.clone()?;
        Some((quarantine, IsolatedJob::new(self.name, id, job.attempts_made, payload), job.crashes))
    }
}

/// Runs a handler as a task, which settles by itself what comes of it.
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
    // Should the task itself fail, its lease goes with it, and the job is given back.
    drop(AbortOnDropHandle::new(tokio::spawn(task.in_current_span())).await);
}

fn settle(lease: Option<Lease>, end: SettlingEnd) {
    if let Some(lease) = lease {
        lease.settle(end);
    }
}

/// Runs a suspect in a process of its own. `None`: none is to be had, and the job has to run here.
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
            tracing::error!(job.name = %name, job.id = id, crashes, poison, how, "a process died that ran this job alone");
            Some(SettlingEnd::Crashed)
        }
        suspect::Verdict::Inconclusive(why) => {
            tracing::warn!(job.name = %name, job.id = id, why, "the process of a job ended, not by the job; it runs again");
            wait(UNPROVEN)
        }
        // It must not take a slot from jobs that could run.
        suspect::Verdict::NoPlace(turn) => wait(turn),
        suspect::Verdict::NoProcess(why) => {
            let what =
                "no process can be started for a job that may have killed its worker; it runs in this one";
            tracing::error!(job.name = %name, job.id = id, why, "{what}");
            None
        }
    }
}

/// What becomes of a job whose handler failed to say it.
fn fault(what: &str, faults: u32) -> SettlingEnd {
    tracing::error!(faults = faults + 1, "{what}");
    if faults + 1 >= MAX_FAULTS {
        SettlingEnd::Condemned(format!("{what}, {MAX_FAULTS} times"))
    } else {
        SettlingEnd::Fault(Duration::from_secs(1 << faults), what.to_owned())
    }
}

/// Adds an apalis worker to the monitor that runs the handler on the jobs. What is returned is gone when
/// that worker is.
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
