//! Keeps the time of the deployment: what Redis shows, measured again and again.
//!
//! All workers of a deployment must agree on the time, or one takes an order that another has just begun to follow for
//! one that is delayed. The wall clocks of hosts do not agree; Redis is the one place that every worker knows.
//!
//! - A measurement is right to half of its round trip. Small differences are made up for gently.
//! - While Redis is away, time goes on by the clock of this process that never steps.
//! - Redis's clock may be set, or be another one after a fail-over. Then the workers notice that it and their own
//!   clocks no longer agree, and the first of them stores the difference beside the queues: the time of the deployment
//!   goes on evenly, for workers that start later too. The difference shrinks by a hundredth of the time that passes.
//! - A host that stood still, such as a virtual machine, finds that its time differs while that of other workers does
//!   not. It takes the time of the deployment at once.
//!
//! The wall clock of the host is compared, and that it differs is logged and measured. It dates webhook signatures and
//! verifies certificates; it decides nothing about an order.

use std::time::Duration;

use chrono::TimeDelta;
use redis::RedisResult;
use tokio::time::{Instant, sleep};
use topup_jobs::Timestamp;

use super::scripts;
use crate::clock::{SharedTime, real_now};
use crate::redis::{Backoff, Connection, Names};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// Pause between two measurements.
const INTERVAL: Duration = Duration::from_secs(6);
/// A measurement whose round trip took longer says too little.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);
/// The wall clock of the host may differ by so much before that is logged, and before it counts as right again.
const HOST_MAY_DIFFER: TimeDelta = TimeDelta::seconds(5);
const HOST_IS_RIGHT: TimeDelta = TimeDelta::seconds(2);

/// Measures the time of the deployment.
pub(crate) struct TimeKeeper {
    connection: Connection,
    names: Names,
    /// Whether it was logged that the wall clock of the host differs.
    host_differs: bool,
}

/// What Redis said.
struct Measured {
    /// The moment in the middle of the round trip.
    at: Instant,
    /// The clock of Redis then.
    redis: Timestamp,
    /// The time of the deployment then.
    deployment: Timestamp,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Agrees,
    OthersAgree,
    Alone,
}

impl TimeKeeper {
    pub(crate) fn new(connection: Connection, names: Names) -> Self {
        Self { connection, names, host_differs: false }
    }

    /// The time of the deployment, once Redis has been asked for it.
    pub(crate) async fn first(&self) -> SharedTime {
        let mut backoff = Backoff::new();
        loop {
            match self.ask(None, None).await {
                Ok(measured) => return SharedTime::new(measured.at, measured.deployment),
                Err(error) => {
                    self.connection.failed(&error);
                    backoff.wait().await;
                }
            }
        }
    }

    /// Measures until asked to stop.
    pub(crate) async fn keep(mut self, time: SharedTime, metrics: Metrics, shutdown: Shutdown) {
        loop {
            self.compare_host(&time, &metrics);
            tokio::select! {
                () = shutdown.requested() => return,
                () = sleep(INTERVAL) => {}
            }
            if let Err(error) = self.measure(&time).await {
                self.connection.failed(&error);
            }
        }
    }

    async fn measure(&self, time: &SharedTime) -> RedisResult<()> {
        let asked = Instant::now();
        let measured = self.ask(Some(time), None).await?;
        if asked.elapsed() > MAX_ROUND_TRIP {
            return Ok(());
        }
        let differs_by_ms = (measured.deployment - time.at(measured.at)).num_milliseconds();
        match measured.verdict {
            Verdict::Agrees => time.approach(measured.at, measured.deployment),
            Verdict::OthersAgree => {
                tracing::warn!(
                    differs_by_ms,
                    "the time of this worker was not that of the others, as after its host stood still; it takes theirs"
                );
                time.take(measured.at, measured.deployment);
            }
            Verdict::Alone => {
                let taken = self.ask(Some(time), Some(&measured)).await?;
                if taken.verdict == Verdict::Agrees {
                    tracing::warn!(
                        differs_by_ms,
                        "the clock of Redis was set, or is that of another server; the time of the deployment goes on \
                         evenly and finds back to it slowly"
                    );
                }
            }
        }
        Ok(())
    }

    /// Asks Redis; `before` has it take our time for that of the deployment, unless its clock was set since.
    async fn ask(&self, time: Option<&SharedTime>, before: Option<&Measured>) -> RedisResult<Measured> {
        let mut call = scripts::CLOCK.key(self.names.clock());
        let asked = Instant::now();
        let mine = time.map(|time| time.at(asked).timestamp_millis().to_string());
        let expected =
            before.map(|before| (before.redis + (asked - before.at)).timestamp_millis().to_string());
        call.arg(mine.unwrap_or_default()).arg(expected.unwrap_or_default());
        let (redis, deployment, verdict): (i64, i64, String) =
            call.invoke_async(&mut self.connection.get()).await?;
        let moment = |ms| Timestamp::from_timestamp_millis(ms).unwrap_or_default();
        Ok(Measured {
            at: asked + asked.elapsed() / 2,
            redis: moment(redis),
            deployment: moment(deployment),
            verdict: match verdict.as_str() {
                "agrees" => Verdict::Agrees,
                "others-agree" => Verdict::OthersAgree,
                _ => Verdict::Alone,
            },
        })
    }

    /// Compares the wall clock of the host.
    fn compare_host(&mut self, time: &SharedTime, metrics: &Metrics) {
        let ahead = real_now() - time.now();
        metrics.clock_ahead(ahead.as_seconds_f64());
        let ahead_ms = ahead.num_milliseconds();
        if !self.host_differs && ahead.abs() > HOST_MAY_DIFFER {
            self.host_differs = true;
            tracing::warn!(
                ahead_ms,
                "the clock of this host is not that of the deployment, which is Redis's; orders are tracked by that of \
                 the deployment, but webhooks are dated by this host, and receivers refuse what is 5 minutes off: keep \
                 this host and that of Redis by NTP"
            );
        } else if self.host_differs && ahead.abs() < HOST_IS_RIGHT {
            self.host_differs = false;
            tracing::info!(ahead_ms, "the clock of this host is that of the deployment again");
        }
    }
}
