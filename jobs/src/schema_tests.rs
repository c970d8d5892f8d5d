//! Checks that the JSON Schemas under `schemas/` match the types they are generated from.
//! `UPDATE_SCHEMAS=1 cargo test -p topup-jobs` rewrites them.

use std::path::Path;

use schemars::{Schema, schema_for};

use crate::{Event, NotifyCustomer, Opts, PollTopup, RecheckTopup};

fn schemas() -> [(&'static str, Schema); 5] {
    [
        ("poll-topup", schema_for!(PollTopup)),
        ("recheck-topup", schema_for!(RecheckTopup)),
        ("notify-customer", schema_for!(NotifyCustomer)),
        ("opts", schema_for!(Opts)),
        ("event", schema_for!(Event)),
    ]
}

#[test]
fn the_checked_in_schemas_match_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    for (name, schema) in schemas() {
        let path = folder.join(format!("{name}.json"));
        let fresh = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &fresh).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stored == fresh,
            "{} is stale: run UPDATE_SCHEMAS=1 cargo test -p topup-jobs",
            path.display()
        );
    }
}

/// Payloads that a released version wrote must always load.
#[test]
fn golden_payloads_of_released_versions_load() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let job = path.file_stem().unwrap().to_str().unwrap().split_once('@').unwrap().0;
        match job {
            "poll-topup" => drop(serde_json::from_str::<PollTopup>(&text).unwrap()),
            "recheck-topup" => drop(serde_json::from_str::<RecheckTopup>(&text).unwrap()),
            "notify-customer" => drop(serde_json::from_str::<NotifyCustomer>(&text).unwrap()),
            other => panic!("no job is called {other}"),
        }
        read += 1;
    }
    assert!(read >= 3, "only {read} golden payloads were read");
}
