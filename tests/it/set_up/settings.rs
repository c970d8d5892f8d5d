//! Settings as `.env` files, compose files and people write them.

use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output};

use crate::support::{Bed, PROGRAM};

fn run(bed: &Bed, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("orders").envs(bed.settings().iter().map(|(name, value)| (*name, value)));
    command.envs(variables.iter().copied()).output().unwrap()
}

#[tokio::test]
async fn quoted_padded_and_empty_values_are_accepted() {
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
async fn all_invalid_variables_are_reported_together_without_their_values() {
    let bed = Bed::new(600.0).await;
    let mut command = Command::new(PROGRAM);
    command.arg("run").envs(bed.settings().iter().map(|(name, value)| (*name, value)));
    let wrong = [
        ("CONCURRENCY", "0661998877x"),
        ("HTTP_ADDR", "0661998877"),
        ("CARD_DETAILS", "0661998877"),
        ("LOG_FORMAT", "loud"),
        // These are validated later than the others.
        ("TIME_SCALE", "0.5"),
        ("ONECLICKDZ_RATE_LIMIT", "0"),
        ("WEBHOOK_URL", "0661998877"),
    ];
    let refused = command.envs(wrong).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{words}");
    for (name, _) in wrong {
        assert!(words.contains(&format!("{name} cannot be used: ")), "{name}: {words}");
    }
    assert!(words.contains("it is none of complete, fast") && !words.contains("0661998877"), "{words}");
    // Latin-1, as an old editor writes it.
    let latin1 = std::ffi::OsStr::from_bytes(b"https://shop.example/\xe9");
    let mut command = Command::new(PROGRAM);
    command.arg("run").envs(bed.settings().iter().map(|(name, value)| (*name, value)));
    let refused = command.env("WEBHOOK_URL", latin1).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(2) && words == "WEBHOOK_URL cannot be used: it is not UTF-8\n",
        "{words}"
    );
    // A flag is named as it was typed.
    let mut command = Command::new(PROGRAM);
    let refused = command.args(["run", "--concurrency", "many"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--concurrency"), "{refused:?}");
}

#[tokio::test]
async fn an_env_file_is_read_like_the_environment() {
    let bed = Bed::new(600.0).await;
    assert!(bed.program(&["migrate"]).status.success());
    let file = tempfile::NamedTempFile::new().unwrap();
    let run = |lines: &str| {
        std::fs::write(file.path(), lines).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["orders", "--env-file"]).arg(file.path()).env_remove("DATABASE_URL");
        command.env("REDIS_URL", super::setting(&bed, "REDIS_URL")).output().unwrap()
    };
    let url = super::setting(&bed, "DATABASE_URL");
    for lines in [
        format!("# of the shop\nDATABASE_URL={url}\n"),
        format!("\u{feff}export DATABASE_URL=\"{url}\"\r\nLOG_FORMAT= \r\n"),
        // The environment takes precedence.
        format!("DATABASE_URL='{url}'\nREDIS_URL=redis://127.0.0.1:1\nLOG_FORMAT=json\nRUST_LOG=info"),
    ] {
        let done = run(&lines);
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && stderr == "no order matches\n", "{lines}: {done:?}");
    }
    let done = run(&format!(
        "DATABASE_URL={url}\nCONCURENCY=50\nRQ49eSbsrUeGZN8WktnP8Q==\nHTTP_ADDR=127.0.0.1:0\t# any\n\
         LOG_FORMAT=0661998877\nLOG_FORMAT=json"
    ));
    let stderr = String::from_utf8_lossy(&done.stderr);
    for words in [
        "line 2 of --env-file has no effect: its name is not a setting",
        "line 3 of --env-file has no effect: its name is not a setting",
        "line 4 of --env-file sets HTTP_ADDR to a value with a #",
        "line 5 of --env-file has no effect: a later line sets LOG_FORMAT, too",
    ] {
        assert!(done.status.success() && stderr.contains(words), "{words}: {stderr}");
    }
    assert!(!stderr.contains("0661998877") && !stderr.contains("RQ49eSbsrUeGZN8WktnP8Q"), "{stderr}");
    let refused = run(&format!("DATABASE_URL={url}\nCONCURENCY=50\nLOG_FORMAT=json # as we like it"));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    for words in [
        "LOG_FORMAT cannot be used: it is none of pretty, json",
        "line 2 of --env-file has no effect: its name is not a setting",
        "line 3 of --env-file sets LOG_FORMAT to a value with a #",
    ] {
        assert!(refused.status.code() == Some(2) && stderr.contains(words), "{stderr}");
    }
    for (lines, words) in [
        (format!("DATABASE_URL={url}\n0661998877\n"), "--env-file cannot be used: line 2 is not NAME=value"),
        (
            format!("DATABASE_URL={url}\nLOG_FORMAT=0661998877"),
            "LOG_FORMAT cannot be used: it is none of pretty, json",
        ),
    ] {
        let refused = run(&lines);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && stderr.contains(words), "{stderr}");
        assert!(!stderr.contains("0661998877"), "{stderr}");
    }
    std::fs::remove_file(file.path()).unwrap();
    let mut command = Command::new(PROGRAM);
    let refused = command.args(["orders", "--env-file"]).arg(file.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert!(
        refused.status.code() == Some(2) && stderr.contains("--env-file cannot be read: No such file"),
        "{stderr}"
    );
}
