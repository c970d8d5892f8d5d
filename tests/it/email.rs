//! Customers and the operator get separate mails over TLS. The mail server may refuse, stall or be set up wrongly.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use topup_jobs::OrderStatus;
use topup_worker::simulator::Script;

use crate::support::smtp::{Mail, MailSink, Offer, PASSWORD, USER};
use crate::support::{Bed, until};

const CUSTOMER: &str = "zohra.bk@example.dz";
const OPERATOR: &str = "ops@shop.example";
const STRICT: Offer = Offer { smtps: false, starttls: true, auth: true };

/// A bed that sends mail through this server and trusts its certificate.
async fn bed(sink: &MailSink, folder: &tempfile::TempDir) -> Bed {
    bed_at(600.0, sink, folder).await
}

/// As [`bed`], with another time scale.
async fn bed_at(scale: f64, sink: &MailSink, folder: &tempfile::TempDir) -> Bed {
    let mut bed = Bed::new(scale).await;
    let ca_file = folder.path().join("mail.pem");
    std::fs::write(&ca_file, &sink.certificate).unwrap();
    bed.set("SMTP_URL", format!("smtp://{USER}:{PASSWORD}@localhost:{}", sink.listen().await));
    bed.set("SMTP_CA_FILE", ca_file.display().to_string());
    bed.set("EMAIL_FROM", "Boutique <topup@shop.example>");
    bed
}

/// Waits until the server has this many mails.
async fn mails(sink: &MailSink, count: usize) -> Vec<Mail> {
    until(&format!("{count} mails are there"), async || {
        let mails = sink.mails();
        (mails.len() >= count).then_some(mails)
    })
    .await
}

/// Undoes quoted-printable.
fn decoded(mail: &Mail) -> String {
    let text = mail.bytes.replace("=\r\n", "");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        if let (b'=', Some(value)) = (byte, hex) {
            bytes.push(value);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn customers_get_a_mail_for_each_outcome_in_their_language_and_without_the_code() {
    let (sink, folder) = (MailSink::new(STRICT), tempfile::tempdir().unwrap());
    let bed = bed_at(3600.0 * 4.0, &sink, &folder).await;
    let fulfilled = bed.order(Script::fulfilled_after(Duration::ZERO));
    let refunded = bed.order(Script::refunded_after(Duration::ZERO));
    let scheduled = bed.order(Script::queued_forever());
    let _worker = bed.worker().await;
    bed.enqueue([&fulfilled, &refunded, &scheduled]).await;
    bed.delivered(&scheduled, "scheduled").await;
    bed.simulator.set_script(&scheduled, Script::fulfilled_after(Duration::ZERO));
    let mails = mails(&sink, 4).await;
    bed.idle().await;
    assert_eq!(sink.mails().len(), 4);
    for (id, outcome, words) in [
        (&fulfilled, "fulfilled", "جاهزة"),
        (&refunded, "refunded", "تعذر"),
        (&scheduled, "scheduled", "48"),
        (&scheduled, "fulfilled", "جاهزة"),
    ] {
        let event_id = format!("evt_{id}_{outcome}");
        let mail = mails.iter().find(|mail| mail.header("X-Topup-Event-Id") == event_id).unwrap();
        assert_eq!((&*mail.from, &*mail.to), ("topup@shop.example", &[CUSTOMER.to_owned()][..]));
        assert!(mail.encrypted && mail.authenticated, "{mail:?}");
        assert_eq!(mail.header("Message-ID"), format!("<{event_id}.email@shop.example>"));
        assert_eq!(mail.header("Content-Language"), "ar");
        assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
        let text = decoded(mail);
        assert!(text.contains(words) && text.contains(r#"dir="rtl""#), "{text}");
        if let Some(code) = bed.simulator.card_code(id) {
            assert!(!text.contains(&code), "the mail contains the code only with EMAIL_CARD=code");
        }
        assert!(bed.shown(id).contains(&format!("{outcome} by email: sent")), "{}", bed.shown(id));
    }
}

#[tokio::test]
async fn a_mail_with_the_code_leaves_no_trace_in_the_log() {
    let (sink, folder) = (MailSink::new(STRICT), tempfile::tempdir().unwrap());
    let mut bed = bed(&sink, &folder).await;
    bed.set("EMAIL_CARD", "code");
    bed.set("RUST_LOG", "trace");
    sink.answer_first([("RCPT", "450 4.2.1 <zohra.bk@example.dz> is asleep")]);
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let mail = mails(&sink, 1).await.remove(0);
    bed.idle().await;
    let code = bed.simulator.card_code(&id).unwrap();
    let text = decoded(&mail);
    assert_eq!(text.matches(&code).count(), 2, "in the text and in the HTML: {text}");
    let log = worker.log() + &bed.shown(&id);
    assert!(log.contains("SMTP 450 to the recipient"), "{log}");
    for secret in [&code, CUSTOMER, PASSWORD, "036362608", "Zohra", "asleep"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_mail_after_a_temporary_failure_is_sent_again_with_the_same_bytes() {
    let (sink, folder) = (MailSink::new(STRICT), tempfile::tempdir().unwrap());
    let bed = bed(&sink, &folder).await;
    sink.answer_first([("MAIL", "421 4.3.2 busy"), (".", "452 4.3.1 full"), (".", "554 5.7.1 policy")]);
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let mails = mails(&sink, 3).await;
    bed.idle().await;
    assert_eq!(sink.mails().len(), 3, "the server rejected two mails and accepted the third");
    assert!(mails.iter().all(|mail| mail.bytes == mails[0].bytes));
    let shown = bed.shown(&id);
    assert!(shown.contains("refunded by email: sent") && shown.contains("4 attempts"), "{shown}");
}

#[tokio::test]
async fn an_unknown_recipient_ends_the_delivery_and_a_wrong_password_does_not() {
    let (sink, folder) = (MailSink::new(STRICT), tempfile::tempdir().unwrap());
    let bed = bed(&sink, &folder).await;
    sink.answer_first([("AUTH", "535 5.7.8 wrong password"), ("RCPT", "550 5.1.1 user unknown")]);
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.stored(std::slice::from_ref(&id), OrderStatus::Refunded).await;
    bed.idle().await;
    assert_eq!(sink.mails().len(), 0);
    assert!(worker.log().contains("SMTP 535 to the login"), "{}", worker.log());
    let shown = bed.shown(&id);
    assert!(shown.contains("refunded by email: refused") && shown.contains("2 attempts"), "{shown}");
    assert!(shown.contains("SMTP 550 to the recipient"), "{shown}");
}

#[tokio::test]
async fn a_server_without_starttls_gets_no_mail_unless_that_is_allowed() {
    let (sink, folder) = (MailSink::new(Offer::default()), tempfile::tempdir().unwrap());
    let mut bed = bed(&sink, &folder).await;
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let mut worker = bed.worker().await;
    bed.enqueue([&id]).await;
    until("the server is reached", async || worker.log().contains("offers no STARTTLS").then_some(())).await;
    assert!(worker.stop().await.success());
    let commands = sink.commands();
    assert!(commands.iter().all(|word| word == "EHLO" || word == "QUIT"), "{commands:?}");
    let address = format!("smtp://localhost:{}", sink.listen().await);
    bed.set("SMTP_URL", address);
    bed.set("ALLOW_INSECURE_SMTP", "true");
    let _worker = bed.worker().await;
    let mail = mails(&sink, 1).await.remove(0);
    assert!(!mail.encrypted && !mail.authenticated);
}

#[tokio::test]
async fn smtps_is_encrypted_from_the_first_byte() {
    let sink = MailSink::new(Offer { smtps: true, starttls: false, auth: true });
    let folder = tempfile::tempdir().unwrap();
    let mut bed = bed(&sink, &folder).await;
    bed.set("SMTP_URL", format!("smtps://{USER}:{PASSWORD}@localhost:{}", sink.listen().await));
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let mail = mails(&sink, 1).await.remove(0);
    assert!(mail.encrypted && mail.authenticated);
}

#[tokio::test]
async fn a_server_with_an_untrusted_certificate_gets_no_mail() {
    let (sink, folder) = (MailSink::new(STRICT), tempfile::tempdir().unwrap());
    let bed = bed(&sink, &folder).await;
    std::fs::write(folder.path().join("mail.pem"), MailSink::new(STRICT).certificate).unwrap();
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let worker = bed.worker().await;
    bed.enqueue([&id]).await;
    until("the server is reached", async || worker.log().contains("its certificate").then_some(())).await;
    let commands = sink.commands();
    assert!(commands.iter().all(|word| word == "EHLO" || word == "STARTTLS"), "{commands:?}");
}

#[tokio::test]
async fn the_operator_and_the_customer_get_separate_mails() {
    let (sink, folder) = (MailSink::new(STRICT), tempfile::tempdir().unwrap());
    let mut bed = bed(&sink, &folder).await;
    bed.set("OPERATOR_EMAIL", format!("{OPERATOR}, Nuit <night@shop.example>"));
    let unknown = "aaaaaaaaaaaaaaaaaaaaaaaa".to_owned();
    let slow = bed.order(Script::handling_forever());
    let _worker = bed.worker().await;
    bed.enqueue([&unknown, &slow]).await;
    bed.delivered(&slow, "delayed").await;
    bed.simulator.set_script(&slow, Script::fulfilled_after(Duration::ZERO));
    let mails = mails(&sink, 3).await;
    bed.idle().await;
    assert_eq!(sink.mails().len(), 3);
    for mail in mails {
        let outcome = mail.header("X-Topup-Event-Id").rsplit_once('_').unwrap().1.to_owned();
        if outcome == "fulfilled" {
            assert_eq!(mail.to, [CUSTOMER]);
        } else {
            assert!(["unresolved", "delayed"].contains(&&*outcome), "{outcome}");
            assert_eq!(mail.to, [OPERATOR, "night@shop.example"], "{outcome}");
            assert!(!decoded(&mail).contains(CUSTOMER) && !decoded(&mail).contains("Zohra"));
            assert_eq!(mail.header("Content-Language"), "fr");
            assert!(mail.header("Message-ID").contains(".operator-email@"));
        }
    }
    assert!(!bed.shown(&slow).contains("delayed by email"), "customers get no mail about a delay");
}

#[tokio::test]
async fn doctor_logs_in_at_the_mail_server_and_sends_nothing() {
    let (sink, folder) = (MailSink::new(STRICT), tempfile::tempdir().unwrap());
    let mut bed = bed(&sink, &folder).await;
    let email = async |bed: &Bed| {
        let output = bed.program_async(&["doctor"]).await;
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(!printed.contains(PASSWORD), "{printed}");
        printed.lines().find(|line| line.contains(" email ")).unwrap_or(&printed).to_owned()
    };
    assert!(email(&bed).await.starts_with("ok"), "{}", email(&bed).await);
    let commands = sink.commands();
    assert!(commands.contains(&"AUTH".to_owned()) && !commands.contains(&"MAIL".to_owned()), "{commands:?}");
    sink.answer_first([("AUTH", "535 5.7.8 wrong password")]);
    let found = email(&bed).await;
    assert!(found.starts_with("fail") && found.contains("SMTP 535 to the login"), "{found}");
    let templates = folder.path().join("templates/fr");
    std::fs::create_dir_all(&templates).unwrap();
    std::fs::write(templates.join("fulfilled.txt"), "Sujet\n\n{{ card_cod }}\n").unwrap();
    bed.set("TEMPLATES_DIR", folder.path().join("templates").display().to_string());
    let output = bed.program_async(&["doctor"]).await;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2), "{printed}");
    assert!(
        printed.contains("TEMPLATES_DIR cannot be used: fr/fulfilled.txt, line 3: undefined"),
        "{printed}"
    );
}

/// Another mail server, Python's aiosmtpd. It prints what Python's mail parser reads.
const AIOSMTPD: &str = r#"
import asyncio, email, email.policy, json
from aiosmtpd.smtp import SMTP

class Handler:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        body = lambda kind: mail.get_body((kind,)).get_content()
        print(json.dumps({"to": envelope.rcpt_tos, "subject": mail["subject"], "sender": mail["from"],
            "date": mail["date"].datetime.isoformat(), "plain": body("plain"), "html": body("html"),
            "defects": [str(defect) for part in mail.walk() for defect in part.defects]}), flush=True)
        return "250 OK"

async def main():
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(Handler()), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"#;

/// Starts aiosmtpd if it is installed. Returns the process, its port and its output.
async fn aiosmtpd() -> Option<(Child, u16, Lines<BufReader<ChildStdout>>)> {
    let python = std::env::var_os("TOPUP_TEST_PYTHON")?;
    let mut command = Command::new(python);
    command.args(["-c", AIOSMTPD]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().ok()?;
    let mut lines = BufReader::new(child.stdout.take()?).lines();
    let port = lines.next_line().await.ok()??.parse().ok()?;
    Some((child, port, lines))
}

#[tokio::test]
async fn another_mail_server_parses_the_mail_correctly() {
    let Some((_server, port, mut lines)) = aiosmtpd().await else {
        eprintln!("left out: no mail goes to aiosmtpd (TOPUP_TEST_PYTHON is not set, or has it not)");
        return;
    };
    let mut bed = Bed::new(600.0).await;
    bed.set("SMTP_URL", format!("smtp://127.0.0.1:{port}"));
    bed.set("ALLOW_INSECURE_SMTP", "true");
    bed.set("EMAIL_FROM", "Boutique d'Été <topup@shop.example>");
    bed.set("EMAIL_CARD", "code");
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let line = lines.next_line().await.unwrap().unwrap();
    let mail: Value = serde_json::from_str(&line).unwrap();
    let code = bed.simulator.card_code(&id).unwrap();
    assert_eq!(mail["to"], serde_json::json!([CUSTOMER]));
    assert_eq!(mail["subject"], "تعبئة ADSL الخاصة بك جاهزة");
    assert_eq!(mail["sender"], "Boutique d'Été <topup@shop.example>");
    assert_eq!(mail["defects"], serde_json::json!([]));
    for form in ["plain", "html"] {
        let text = mail[form].as_str().unwrap();
        assert!(text.contains(&code) && text.contains("اتصالات الجزائر"), "{text}");
    }
}
