//! Runs `bench --only budget` and checks its figures for the provider's guide and for this service.

use std::process::Command;

use serde_json::Value;

use crate::support::PROGRAM;

fn bench(arguments: &[&str]) -> Value {
    let output = Command::new(PROGRAM).args(["bench", "--only", "budget", "--json"]).args(arguments).output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn new_orders_are_notified_within_a_minute_beside_a_backlog_that_redis_lost() {
    let load = ["--arrivals=30", "--minutes=3", "--settle-minutes=15", "--time-scale=10"];
    let backlog = ["--rechecks=2000", "--rechecks-lost", "--trackers=list"];
    let figures = bench(&[&load[..], &backlog].concat());
    let figure =
        |name: &str| figures[format!("budget_30_per_minute_list_{name}")].as_f64().unwrap_or(f64::NAN);
    assert!(figure("orders_not_ended") < 1.0, "{figures:#}");
    assert!(figure("notified_after_p95_seconds") < 60.0, "{figures:#}");
    assert!(figure("busiest_minute_requests") <= 120.0, "{figures:#}");
    // Restoring follows the clock of the machine, so only the largest possible number of rechecks is certain.
    assert!(figure("rechecks_answered") <= 2_000.0, "{figures:#}");
}

#[test]
fn this_service_ends_more_orders_per_request_than_the_guides_loop() {
    let load = ["--arrivals=200", "--minutes=1", "--settle-minutes=15", "--time-scale=50"];
    let figures = bench(&[&load[..], &["--trackers=patient-guide,list-with-cards"]].concat());
    let figure = |tracker: &str, name: &str| {
        figures[format!("budget_200_per_minute_{tracker}_{name}")].as_f64().unwrap_or(f64::NAN)
    };
    for tracker in ["patient_guide", "list_with_cards"] {
        assert!((figure(tracker, "orders") - 200.0).abs() < f64::EPSILON, "{figures:#}");
    }
    assert!(figure("list_with_cards", "orders_not_ended") < 1.0, "{figures:#}");
    assert!(figure("list_with_cards", "busiest_minute_requests") <= 120.0, "{figures:#}");
    assert!(figure("patient_guide", "busiest_minute_requests") > 120.0, "the loop is unlimited: {figures:#}");
    assert!(figure("list_with_cards", "over_patient_guide") > 1.0, "{figures:#}");
}
