//! The clocks of hosts disagree. The clock of Redis alone decides which jobs are due and which workers are
//! dead. Without libfaketime, the test prints a line and passes, unless
//! `TOPUP_TEST_REQUIRE_FAKETIME=1` is set.

use std::time::Duration;

use crate::support::engine::{Act, Engine, EngineWorker, Settings, TestJob, mixed};
use crate::support::faketime::libfaketime;

const HOUR_MS: i64 = 3_600_000;

async fn skewed(engine: &Engine, library: &str, by: &str) -> EngineWorker {
    let environment = vec![
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME", by.to_owned()),
        // Only the wall clock is wrong. The monotonic clock is right on every host.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    engine.start(&Settings { environment, ..engine.settings(10) }).await
}

#[tokio::test]
async fn workers_whose_clocks_are_an_hour_off_run_jobs_on_time_and_stay_registered() {
    let Some(library) = libfaketime("workers whose clocks are wrong") else { return };
    let engine = Engine::new().await;
    let mut late = skewed(&engine, &library, "-1h").await;
    let mut early = skewed(&engine, &library, "+1h").await;
    // Jobs in flight for longer than the lease on both workers: neither may presume the other dead.
    let long: Vec<TestJob> =
        (500..516).map(|n| TestJob::new(n, [Act::Finish.taking(Duration::from_secs(8))])).collect();
    engine.push(&long).await;
    engine.begun(long.len(), |_| true).await;
    let now = engine.now().await;
    let timed: Vec<(TestJob, f64)> = (0..10_u32)
        .map(|n| (TestJob::new(600 + n, [Act::Finish.at_once()]), now + 2.0 + 0.37 * f64::from(n)))
        .collect();
    for (job, due) in &timed {
        engine.schedule(job, *due).await;
    }
    let mixed = mixed(60);
    engine.push(&mixed).await;
    let timed_jobs: Vec<TestJob> = timed.iter().map(|(job, _)| job.clone()).collect();
    let all = [long, timed_jobs, mixed].concat();
    engine.assert_settled(&all).await;
    engine.assert_each_step_ran_once(&all);

    for (job, due) in &timed {
        let run = engine.diary.runs_of(&job.id).remove(0);
        let skew_ms = if run.owner == late.pid() { -HOUR_MS } else { HOUR_MS };
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century")]
        let late_ms = run.at_ms - skew_ms - (due * 1000.0) as i64;
        assert!((0..5_000).contains(&late_ms), "{} began {late_ms} ms after its time", job.id);
    }
    for worker in [&mut late, &mut early] {
        worker.assert_runs();
        assert!(!worker.log().contains("dead"), "{}", worker.log());
    }
}
