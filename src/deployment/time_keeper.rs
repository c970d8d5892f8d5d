//! Keeps the time of the deployment by repeated measurements of the clock of Redis.
//!
//! All workers must agree on the time. Otherwise an order that one worker has just begun to track might look delayed to
//! another. The wall clocks of hosts differ, so the workers use the clock of Redis, which each of them can read.
//!
//! - A measurement is exact to half of its round-trip time. Small differences are corrected gradually.
//! - While Redis is unreachable, the time advances by the monotonic clock of this process.
//! - The clock of Redis may jump, also by a fail-over to another server. The first worker that notices stores an
//!   offset in Redis that keeps the time of the deployment from jumping. The offset shrinks by 10 ms a second.
//! - If only one worker's time differs, for example after a freeze of its host, that worker corrects its time at once.
//!
//! The host's wall clock is used only for webhook signatures and certificates. A difference of over 5 s is logged.

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
/// A measurement with a longer round trip than this is ignored, because it is too inexact.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);
/// Difference between the host's wall clock and the deployment's time above which a warning is logged.
const HOST_MAY_DIFFER: TimeDelta = TimeDelta::seconds(5);
/// Difference below which, after such a warning, the host's wall clock counts as right again.
const HOST_IS_RIGHT: TimeDelta = TimeDelta::seconds(2);

pub(crate) struct TimeKeeper {
    connection: Connection,
    names: Names,
    /// Whether a difference between the host's wall clock and the deployment's time was logged and still exists.
    host_differs: bool,
}

/// One measurement: the middle of its round trip, and the times of Redis and of the deployment at that moment.
struct Measured {
    at: Instant,
    redis: Timestamp,
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

    /// Makes the first measurement. Retries until Redis answers.
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

    /// Corrects `time` by a measurement every [`INTERVAL`], until a shutdown is requested.
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
                    "this worker's time differed from the others' and was corrected; its host may have been frozen"
                );
                time.take(measured.at, measured.deployment);
            }
            Verdict::Alone => {
                let taken = self.ask(Some(time), Some(&measured)).await?;
                if taken.verdict == Verdict::Agrees {
                    tracing::warn!(
                        differs_by_ms,
                        "the clock of Redis was set to another time, or another server took over; the time of the \
                         deployment does not jump, but approaches that clock slowly"
                    );
                }
            }
        }
        Ok(())
    }

    /// Makes a measurement. Given an earlier one as `before`, also sets the deployment's time to this worker's, but
    /// not if any worker's time agrees with the deployment's or the clock of Redis has jumped since `before`.
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

    fn compare_host(&mut self, time: &SharedTime, metrics: &Metrics) {
        let ahead = real_now() - time.now();
        metrics.clock_ahead(ahead.as_seconds_f64());
        let ahead_ms = ahead.num_milliseconds();
        if !self.host_differs && ahead.abs() > HOST_MAY_DIFFER {
            self.host_differs = true;
            tracing::warn!(
                ahead_ms,
                "the clock of this host differs from that of Redis, which the deployment follows: synchronize both hosts by \
                 NTP, because receivers refuse the webhooks of a host whose clock is 5 minutes off"
            );
        } else if self.host_differs && ahead.abs() < HOST_IS_RIGHT {
            self.host_differs = false;
            tracing::info!(ahead_ms, "the clock of this host agrees with that of Redis again");
        }
    }
}
