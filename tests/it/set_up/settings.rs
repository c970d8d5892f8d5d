//! Settings as `.env` files, compose files and people write them.

use std::process::{Command, Output};

use crate::support::{Bed, PROGRAM};

fn run(bed: &Bed, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("orders").envs(bed.settings().iter().map(|(name, value)| (*name, value)));
    command.envs(variables.iter().copied()).output().unwrap()
}

#[tokio::test]
async fn values_are_understood_as_they_are_written() {
    let bed = Bed::new(600.0).await;
    assert!(bed.program(&["migrate"]).status.success());
    let url = super::setting(&bed, "DATABASE_URL").to_owned();
    for (name, value) in [
        ("DATABASE_URL", format!("\"{url}\"")),
        ("DATABASE_URL", format!("'{url}'\n")),
        ("TOPUP_PREFIX", String::new()),
        ("LOG_FORMAT", "\"json\"".to_owned()),
        ("LOG_FORMAT", " ".to_owned()),
    ] {
        let done = run(&bed, &[(name, &value)]);
        assert!(done.status.success(), "{name}={value}: {done:?}");
    }
}

#[tokio::test]
async fn all_variables_that_cannot_be_used_are_named_at_once_and_without_their_values() {
    let bed = Bed::new(600.0).await;
    let mut command = Command::new(PROGRAM);
    command.arg("run").envs(bed.settings().iter().map(|(name, value)| (*name, value)));
    let wrong = [
        ("CONCURRENCY", "0661998877x"),
        ("HTTP_ADDR", "0661998877"),
        ("CARD_DETAILS", "0661998877"),
        ("LOG_FORMAT", "loud"),
    ];
    let refused = command.envs(wrong).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{words}");
    for (name, _) in wrong {
        assert!(words.contains(&format!("{name} cannot be used: ")), "{name}: {words}");
    }
    assert!(words.contains("it is none of complete, fast") && !words.contains("0661998877"), "{words}");
    // A flag is named as it was typed.
    let mut command = Command::new(PROGRAM);
    let refused = command.args(["run", "--concurrency", "many"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--concurrency"), "{refused:?}");
}
