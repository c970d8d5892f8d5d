//! Snapshots of the help texts, so that a review shows every change.

use std::process::Command;

fn help(command: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_topup-worker")).args(command).arg("--help").output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_help_of_each_command_matches_its_snapshot() {
    insta::assert_snapshot!("topup-worker", help(&[]));
    for command in [
        "run",
        "demo",
        "simulate-api",
        "enqueue",
        "order",
        "orders",
        "check",
        "correct",
        "stop",
        "dead-letters",
        "resend",
        "rejected",
        "migrate",
        "adopt-store",
        "rekey",
        "keygen",
        "callback-secret",
        "doctor",
    ] {
        insta::assert_snapshot!(command, help(&[command]));
    }
}

#[test]
fn keygen_prints_a_key_and_nothing_else() {
    let output = Command::new(env!("CARGO_BIN_EXE_topup-worker")).arg("keygen").output().unwrap();
    let key = String::from_utf8(output.stdout).unwrap();
    assert_eq!(key.trim_end().len(), 64);
    assert!(key.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(output.stderr, b"");
}
