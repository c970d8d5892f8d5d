//! With `EMAIL_CARD=link`, a mail has a link instead of the code, and the linked page shows the card once.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use topup_worker::simulator::Script;

use crate::support::redis::free_port;
use crate::support::smtp::{MailSink, Offer, PASSWORD, USER};
use crate::support::{Bed, until};

/// The ADSL number of every order of the simulator, and its last digits.
const NUMBER: &str = "036362608";
const ENDING: &str = "2608";

#[tokio::test]
async fn the_link_of_a_mail_shows_the_card_once() {
    let (sink, folder) =
        (MailSink::new(Offer { smtps: false, starttls: true, auth: true }), tempfile::tempdir().unwrap());
    let mut bed = Bed::new(600.0).await;
    let ca_file = folder.path().join("mail.pem");
    std::fs::write(&ca_file, &sink.certificate).unwrap();
    bed.set("SMTP_URL", format!("smtp://{USER}:{PASSWORD}@localhost:{}", sink.listen().await));
    bed.set("SMTP_CA_FILE", ca_file.display().to_string());
    bed.set("EMAIL_FROM", "Boutique <topup@shop.example>");
    bed.set("EMAIL_CARD", "link");
    bed.set("RUST_LOG", "trace");
    let page = free_address();
    bed.set("REVEAL_ADDR", &page);
    // A proxy of this address may forward the path with or without the prefix.
    bed.set("REVEAL_URL", format!("http://{page}/shop/cards"));
    // The first attempt fails, and the second sends the same link.
    sink.answer_first([("DATA", "451 4.3.0 later")]);
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let mail = until("the mail is there", async || sink.mails().pop()).await;
    bed.idle().await;
    let text = mail.bytes.replace("=\r\n", "").replace("=3D", "=");
    let code = bed.simulator.card_code(&id).unwrap();
    assert!(!text.contains(&code) && !text.contains(NUMBER), "no code and no full number: {text}");
    assert!(text.contains(NUMBER.strip_suffix(ENDING).unwrap()), "a part of the number: {text}");
    let begin = format!("http://{page}/shop/cards/r/");
    let token = text.split(&begin).nth(1).unwrap_or_else(|| panic!("no link in {text}"));
    let token: String = token.chars().take_while(char::is_ascii_hexdigit).collect();

    let opened = http(&page, "GET", &format!("/shop/cards/r/{token}"), "").await;
    assert!(opened.starts_with("HTTP/1.1 200") && opened.contains("<form"), "{opened}");
    let path = format!("/r/{token}");
    let opened = http(&page, "GET", &path, "").await;
    assert!(opened.starts_with("HTTP/1.1 200") && opened.contains("<form"), "{opened}");
    assert!(opened.contains(r#"dir="rtl""#), "the page is in the customer's language: {opened}");
    let wrong = http(&page, "POST", &path, "digits=0000").await;
    assert!(wrong.starts_with("HTTP/1.1 403"), "{wrong}");
    let shown = http(&page, "POST", &format!("/shop/cards/r/{token}"), &format!("digits={ENDING}")).await;
    assert!(shown.starts_with("HTTP/1.1 200") && shown.contains(&code), "{shown}");
    let again = http(&page, "POST", &path, &format!("digits={ENDING}")).await;
    assert!(again.starts_with("HTTP/1.1 410") && !again.contains(&code), "{again}");

    let timeline = bed.shown(&id);
    for line in ["try 1: wrong", "try 2: shown", "already-shown", "event fulfilled to email, attempt 2: sent"]
    {
        assert!(timeline.contains(line), "{line} is not in {timeline}");
    }
    let log = worker.log() + &timeline;
    assert!(!log.contains(&code) && !log.contains(&token), "neither the code nor the link is logged");
}

#[tokio::test]
async fn a_flood_of_idle_connections_blocks_neither_customers_nor_the_operator() {
    let mut bed = Bed::new(600.0).await;
    let page = free_address();
    bed.set("REVEAL_ADDR", &page);
    bed.set("REVEAL_URL", format!("http://{page}"));
    let operator = bed.serve_http();
    let worker = bed.worker().await;
    let mut flood = Vec::new();
    for n in 0..400 {
        let mut stream = TcpStream::connect(&page).await.expect("the page answers");
        stream
            .write_all(b"GET /r/1234 HTTP/1.1\r\nHost:")
            .await
            .expect("the page takes the beginning of a request");
        flood.push(stream);
        if n % 100 == 99 {
            let answer = http(&page, "GET", "/r/unknown", "").await;
            assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        }
    }
    for n in 0..100 {
        flood.push(TcpStream::connect(&operator).await.expect("the endpoints answer"));
        if n % 25 == 24 {
            assert!(crate::shutdown::get(&operator).await.starts_with("HTTP/1.1 "));
        }
    }
    // The oldest connections were closed for newer ones. Otherwise they would stay open for twenty seconds.
    let mut nothing = Vec::new();
    assert!(flood[0].read_to_end(&mut nothing).await.is_err() || nothing.is_empty());
    for setting in ["REVEAL_ADDR", "HTTP_ADDR"] {
        let words = "the listener is at its limit of connections";
        until(setting, async || {
            worker.log().lines().any(|line| line.contains(words) && line.contains(setting)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn without_reveal_url_there_is_no_page_and_no_link() {
    let mut bed = Bed::new(600.0).await;
    let page = free_address();
    bed.set("REVEAL_ADDR", &page);
    let worker = bed.worker().await;
    assert!(TcpStream::connect(&page).await.is_err(), "{}", worker.log());
    bed.set("SMS_URL", "http://127.0.0.1:1");
    bed.set("SMS_BODY", "[{{ phone | tojson }}, {{ text | tojson }}]");
    bed.set("ALLOW_INSECURE_SMS", "true");
    bed.set("SMS_CARD", "link");
    let refused = bed.program(&["run"]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{words}");
    assert!(words.contains("REVEAL_URL cannot be used: SMS_CARD=link"), "{words}");
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

async fn http(address: &str, method: &str, path: &str, form: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the page answers");
    let length = form.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: cards\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{form}"
    );
    stream.write_all(request.as_bytes()).await.expect("the page takes the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the page answers");
    answer
}
