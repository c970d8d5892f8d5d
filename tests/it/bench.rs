//! The bench of the provider's budget: what it says of the guide's loop and of this service is measured.

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
fn more_orders_come_to_their_end_by_one_request_than_by_the_guides_loop() {
    let load = ["--arrivals=200", "--minutes=1", "--settle-minutes=15", "--time-scale=50"];
    let figures = bench(&[&load[..], &["--followers=patient-guide,list-with-cards"]].concat());
    let figure = |follower: &str, name: &str| {
        figures[format!("budget_200_per_minute_{follower}_{name}")].as_f64().unwrap_or(f64::NAN)
    };
    for follower in ["patient_guide", "list_with_cards"] {
        assert!((figure(follower, "orders") - 200.0).abs() < f64::EPSILON, "{figures:#}");
    }
    assert!(figure("list_with_cards", "orders_not_ended") < 1.0, "{figures:#}");
    assert!(figure("list_with_cards", "busiest_minute_requests") <= 120.0, "{figures:#}");
    assert!(figure("patient_guide", "busiest_minute_requests") > 120.0, "it keeps no budget: {figures:#}");
    assert!(figure("list_with_cards", "over_patient_guide") > 1.0, "{figures:#}");
}
