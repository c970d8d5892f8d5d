//! Hosts that disagree on the time: what is due, and who is dead, is told by the clock of Redis alone. Needs
//! libfaketime; prints a line and passes without it, unless `TOPUP_TEST_REQUIRE_FAKETIME=1` says that it must be
//! tested.

use std::time::Duration;

use crate::support::engine::{Act, Engine, EngineWorker, Part, Settings, mixed};
use crate::support::faketime::libfaketime;

const HOUR_MS: i64 = 3_600_000;

async fn skewed(engine: &Engine, library: &str, by: &str) -> EngineWorker {
    let environment = vec![
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME", by.to_owned()),
        // A wrong clock on the wall; the one that measures waits is right on every host.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    engine.start(&Settings { environment, ..engine.settings(10) }).await
}

#[tokio::test]
async fn workers_whose_clocks_are_an_hour_off_run_jobs_on_time_and_leave_each_other_alone() {
    let Some(library) = libfaketime("workers whose clocks are wrong") else { return };
    let engine = Engine::new().await;
    let mut late = skewed(&engine, &library, "-1h").await;
    let mut early = skewed(&engine, &library, "+1h").await;
    // In flight for longer than the lease, on both: neither may take the other for dead.
    let long: Vec<Part> =
        (500..516).map(|n| Part::new(n, [Act::Finish.taking(Duration::from_secs(8))])).collect();
    engine.push(&long).await;
    engine.begun(long.len(), |_| true).await;
    let now = engine.now().await;
    let timed: Vec<(Part, f64)> = (0..10_u32)
        .map(|n| (Part::new(600 + n, [Act::Finish.at_once()]), now + 2.0 + 0.37 * f64::from(n)))
        .collect();
    for (part, due) in &timed {
        engine.schedule(part, *due).await;
    }
    let mixed = mixed(60);
    engine.push(&mixed).await;
    let timed_parts: Vec<Part> = timed.iter().map(|(part, _)| part.clone()).collect();
    let all = [long, timed_parts, mixed].concat();
    engine.account(&all).await;
    engine.assert_each_step_ran_once(&all);

    for (part, due) in &timed {
        let run = engine.diary.runs_of(&part.id).remove(0);
        let skew_ms = if run.owner == late.pid() { -HOUR_MS } else { HOUR_MS };
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century")]
        let late_ms = run.at_ms - skew_ms - (due * 1000.0) as i64;
        assert!((0..5_000).contains(&late_ms), "{} began {late_ms} ms after its time", part.id);
    }
    for worker in [&mut late, &mut early] {
        worker.assert_runs();
        assert!(!worker.log().contains("dead"), "{}", worker.log());
    }
}
