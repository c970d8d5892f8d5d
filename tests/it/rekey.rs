//! Before and after a change of `ENCRYPTION_KEY`, the code of the provider's guide decrypts the stored cards.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::Script;

use crate::support::{Bed, ENCRYPTION_KEY};

const NEW_KEY: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
const MAY_BE_REMOVED: &str = "ENCRYPTION_KEYS_PREVIOUS may be removed";

/// Code of the provider's guide.
const NODE: &str = r"
const crypto = require('crypto');
const { iv, encryptedData, authTag } = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const key = Buffer.from(process.env.ENCRYPTION_KEY, 'hex');
const decipher = crypto.createDecipheriv('aes-256-gcm', key, Buffer.from(iv, 'hex'));
decipher.setAuthTag(Buffer.from(authTag, 'hex'));
process.stdout.write(decipher.update(encryptedData, 'hex', 'utf8') + decipher.final('utf8'));
";
const PYTHON: &str = r"
import json, os, sys
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
stored = {name: bytes.fromhex(value) for name, value in json.load(sys.stdin).items()}
aesgcm = AESGCM(bytes.fromhex(os.environ['ENCRYPTION_KEY']))
card_code = aesgcm.decrypt(stored['iv'], stored['encryptedData'] + stored['authTag'], None)
sys.stdout.write(card_code.decode('utf-8'))
";
const PHP: &str = r"
$stored = json_decode(file_get_contents('php://stdin'), true);
$cardCode = openssl_decrypt(hex2bin($stored['encryptedData']), 'aes-256-gcm', hex2bin(getenv('ENCRYPTION_KEY')),
    OPENSSL_RAW_DATA, hex2bin($stored['iv']), hex2bin($stored['authTag']));
if ($cardCode === false) exit(1);
echo $cardCode;
";

/// An interpreter that can run the guide's code.
struct Language {
    program: OsString,
    option: &'static str,
    code: &'static str,
}

impl Language {
    /// The first of these programs that can run `needs`. Prints a line and returns `None` if none can.
    fn find(programs: &[OsString], option: &'static str, needs: &str, code: &'static str) -> Option<Self> {
        let runs = |program: &&OsString| {
            let tried = Command::new(program).args([option, needs]).stderr(Stdio::null()).output();
            tried.is_ok_and(|output| output.status.success())
        };
        let found = programs.iter().find(runs).cloned();
        if found.is_none() {
            eprintln!("left out: a stored card is not decrypted by {programs:?} (none can run `{needs}`)");
        }
        found.map(|program| Self { program, option, code })
    }

    /// Decrypts a stored card with this key. Returns `None` if that fails.
    fn decrypt(&self, stored: &str, key: &str) -> Option<String> {
        let mut command = Command::new(&self.program);
        command.args([self.option, self.code]).env("ENCRYPTION_KEY", key);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stored.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

#[tokio::test]
async fn node_decrypts_a_card_before_and_after_rekeying() {
    before_and_after(Language::find(&["node".into()], "-e", "require('crypto')", NODE)).await;
}

#[tokio::test]
async fn python_decrypts_a_card_before_and_after_rekeying() {
    let given = std::env::var_os("TOPUP_TEST_PYTHON");
    let programs: Vec<OsString> =
        given.into_iter().chain(["python3".into(), "/usr/bin/python3".into()]).collect();
    let needs = "from cryptography.hazmat.primitives.ciphers.aead import AESGCM";
    before_and_after(Language::find(&programs, "-c", needs, PYTHON)).await;
}

#[tokio::test]
async fn php_decrypts_a_card_before_and_after_rekeying() {
    let needs = "exit(extension_loaded('openssl') ? 0 : 1);";
    before_and_after(Language::find(&["php".into()], "-r", needs, PHP)).await;
}

async fn before_and_after(language: Option<Language>) {
    let Some(language) = language else { return };
    let mut bed = Bed::new(600.0).await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut worker = bed.worker().await;
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    let card = bed.simulator.card_code(&order);
    let stored = bed.sealed_card(&order).await;
    assert!(!stored.contains(card.as_deref().unwrap()));
    assert_eq!(language.decrypt(&stored, ENCRYPTION_KEY), card);

    change_key(&mut bed);
    assert!(worker.stop().await.success());
    let output = rekey(&bed);
    assert!(output.status.success(), "{output:?}");
    let stored = bed.sealed_card(&order).await;
    assert_eq!(language.decrypt(&stored, NEW_KEY), card);
    assert_eq!(language.decrypt(&stored, ENCRYPTION_KEY), None);
}

fn change_key(bed: &mut Bed) {
    bed.set("ENCRYPTION_KEY", NEW_KEY);
    bed.set("ENCRYPTION_KEYS_PREVIOUS", format!("{} {ENCRYPTION_KEY}", "0".repeat(64)));
}

fn rekey(bed: &Bed) -> Output {
    let output = bed.program(&["rekey"]);
    for stream in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(stream);
        assert!(!text.contains(NEW_KEY) && !text.contains(ENCRYPTION_KEY), "{text}");
    }
    output
}

#[tokio::test]
async fn rekeying_beside_running_workers_loses_no_card() {
    let mut bed = Bed::new(600.0).await;
    change_key(&mut bed);
    let restarted = bed.worker().await;
    // This worker has not been restarted yet.
    bed.set("ENCRYPTION_KEY", ENCRYPTION_KEY);
    bed.set("ENCRYPTION_KEYS_PREVIOUS", NEW_KEY);
    let mut old = bed.worker().await;
    let orders: Vec<String> =
        (0..150).map(|n| bed.order(Script::fulfilled_after(Duration::from_secs(n)))).collect();
    bed.enqueue(&orders).await;
    change_key(&mut bed);
    bed.delivered(&orders[0], "fulfilled").await;
    let early = rekey(&bed);
    let words = String::from_utf8_lossy(&early.stdout);
    assert!(
        early.status.code() == Some(1) && words.contains("a worker still encrypts with another key"),
        "{words}"
    );
    for order in &orders {
        bed.delivered(order, "fulfilled").await;
    }
    assert!(old.stop().await.success());
    let output = rekey(&bed);
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && words.contains(MAY_BE_REMOVED), "{words}");
    bed.set("ENCRYPTION_KEYS_PREVIOUS", "");
    let alone = rekey(&bed);
    let words = String::from_utf8_lossy(&alone.stdout);
    assert!(alone.status.success() && words.contains("     150  already encrypted"), "{words}");
    assert!(!restarted.log().contains("the store failed"), "{}", restarted.log());
}

#[tokio::test]
async fn a_card_that_no_key_decrypts_is_listed() {
    let mut bed = Bed::new(600.0).await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut worker = bed.worker().await;
    bed.enqueue([&order]).await;
    bed.stored(std::slice::from_ref(&order), OrderStatus::Fulfilled).await;
    bed.idle().await;
    assert!(worker.stop().await.success());
    bed.set("ENCRYPTION_KEY", NEW_KEY);
    let output = rekey(&bed);
    let words = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(words.contains(&order) && words.contains("       1  not decrypted by any key"), "{words}");
    assert!(!words.contains(MAY_BE_REMOVED), "{words}");
}
