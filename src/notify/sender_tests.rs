use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A resolver that returns the scripted answers one after another and repeats the last one.
struct Scripted {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Scripted {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let addresses = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        let answers = Mutex::new(answers.iter().map(addresses).collect());
        Arc::new(Self { answers, asked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Lookup for Scripted {
    async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        next.ok_or_else(|| std::io::Error::other("no answer is left"))
    }
}

/// Starts a server that answers 204 on every IPv4 address of this machine. Returns its port and a count of connections.
async fn server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let (port, connected) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&connected);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _read = stream.read(&mut request).await;
                let _written = stream.write_all(b"HTTP/1.1 204 x\r\nconnection: close\r\n\r\n").await;
            });
        }
    });
    (port, connected)
}

fn sender(insecure: bool, named: &str, lookup: Arc<dyn Lookup>) -> Sender {
    Sender::resolving(SsrfGuard::new(insecure, named).unwrap(), lookup).unwrap()
}

async fn post(sender: &Sender, url: &str) -> Result<u16, NoAnswer> {
    let answer = sender.post(&url.parse().unwrap(), HeaderMap::new(), b"{}".to_vec()).await;
    answer.map(|(status, _)| status.as_u16())
}

/// Addresses of every special network, with unusual spellings of them.
const HOSTILE: [&str; 67] = [
    "https://127.0.0.1/",
    "https://127.1/",
    "https://127.0.1/",
    "https://127.255.255.254/",
    "https://2130706433/",
    "https://017700000001/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://0x7f.1/",
    "https://127.0.0.1./",
    "https://%31%32%37.0.0.1/",
    "https://１２７.０.０.１/",
    "https://127。0。0。1/",
    "https://0.0.0.0/",
    "https://0/",
    "https://0.1.2.3/",
    "https://10.0.0.1/",
    "https://10.255.255.255/",
    "https://167772161/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.0.1/",
    "https://192.168.257/",
    "https://169.254.169.254/latest/meta-data/",
    "https://0xa9fea9fe/",
    "https://2852039166/",
    "https://0251.0376.0251.0376/",
    "https://169.254.43518/",
    "https://100.64.0.1/",
    "https://100.127.255.255/",
    "https://100.100.100.200/",
    "https://168.63.129.16/",
    "https://192.0.0.1/",
    "https://192.0.0.192/",
    "https://192.0.2.1/",
    "https://198.51.100.1/",
    "https://203.0.113.1/",
    "https://192.88.99.1/",
    "https://198.18.0.1/",
    "https://198.19.255.255/",
    "https://224.0.0.1/",
    "https://239.255.255.250/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://[::]/",
    "https://[::1]:6379/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[::127.0.0.1]/",
    "https://[fc00::1]/",
    "https://[fd12:3456:789a::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1]/",
    "https://[febf::1]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[100::1]/",
    "https://[2001:db8::1]/",
    "https://[3fff::1]/",
    "https://[2001::1]/",
    "https://[2002:7f00:1::]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b::10.0.0.1]/",
    "https://[64:ff9b:1::1]/",
];

#[tokio::test]
async fn no_hostile_address_is_connected_to_and_each_refusal_has_a_reason() {
    let sender = sender(false, "", Arc::new(SystemLookup));
    for url in HOSTILE {
        let refused = post(&sender, url).await.unwrap_err();
        let words = refused.to_string();
        assert!(matches!(refused, NoAnswer::Blocked(_)), "{url}: {words}");
        assert!(words.starts_with("the address leads to ") && words.contains("no webhook"), "{url}: {words}");
        assert!(SendError::from(refused) == SendError::Failed { what: words, retry_after: None });
    }
    for (url, word) in [
        ("http://shop.example/", "https://"),
        ("ftp://shop.example/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("gopher://127.0.0.1:6379/_FLUSHALL", "https://"),
        ("https://shop.example@10.0.0.1/", "a user or a password"),
        ("https://user:password@shop.example/", "a user or a password"),
    ] {
        let words = post(&sender, url).await.unwrap_err().to_string();
        assert!(words.contains(word), "{url}: {words}");
    }
}

#[tokio::test]
async fn no_host_name_reaches_a_server_on_a_private_network() {
    let (port, connected) = server().await;
    // With private networks allowed, these URLs reach the server. So only the guard can cause the refusals below.
    let open = sender(true, "", Scripted::new(&[&["127.0.0.1"]]));
    for host in ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "shop.example"] {
        assert_eq!(post(&open, &format!("http://{host}:{port}/")).await, Ok(204), "{host}");
    }
    assert_eq!(connected.swap(0, Ordering::SeqCst), 5);

    for address in [
        "127.0.0.1",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "::ffff:127.0.0.1",
        "fd00::1",
        "fe80::1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ] {
        let sender = sender(false, "", Scripted::new(&[&[address]]));
        let refused = post(&sender, &format!("https://shop.example:{port}/")).await.unwrap_err();
        assert!(matches!(refused, NoAnswer::Blocked(_)), "{address}: {refused}");
        assert!(!refused.to_string().contains("shop.example"), "{refused}");
    }
    let system = sender(false, "", Arc::new(SystemLookup));
    let localhost = post(&system, &format!("https://localhost:{port}/")).await.unwrap_err();
    assert!(matches!(localhost, NoAnswer::Blocked(Blocked::Special(_))), "{localhost}");
    assert_eq!(connected.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_is_resolved_once_and_the_checked_address_is_connected_to() {
    let (port, connected) = server().await;
    let url = format!("http://rebinding.example:{port}/");
    // `insecure` allows 127.0.0.1, which stands for a public host here; the cloud's metadata address stays blocked.
    let guard = || SsrfGuard::new(true, "").unwrap();
    let lookup = Scripted::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let sender = Sender::resolving(guard(), Arc::clone(&lookup) as Arc<dyn Lookup>).unwrap();
    assert_eq!(post(&sender, &url).await, Ok(204));
    assert_eq!(lookup.asked.load(Ordering::SeqCst), 1, "the name was resolved once");
    assert!(matches!(post(&sender, &url).await, Err(NoAnswer::Blocked(Blocked::Never(_)))));
    assert_eq!((lookup.asked.load(Ordering::SeqCst), connected.load(Ordering::SeqCst)), (2, 1));

    // If one DNS answer contains a blocked and an allowed address, only the allowed one is tried.
    let both = Scripted::new(&[&["169.254.169.254", "127.0.0.1"]]);
    let sender = Sender::resolving(guard(), both).unwrap();
    assert_eq!(post(&sender, &url).await, Ok(204));
}

#[tokio::test]
async fn private_addresses_are_dropped_from_every_dns_answer() {
    let (port, connected) = server().await;
    let url = format!("https://rebinding.example:{port}/");
    for answers in [&[&["1.1.1.1"][..], &["127.0.0.1"]][..], &[&["127.0.0.1"], &["1.1.1.1"]]] {
        let lookup = Scripted::new(answers);
        let resolver =
            GuardedResolver { lookup: Arc::clone(&lookup) as Arc<dyn Lookup>, guard: SsrfGuard::default() };
        for answer in answers {
            let handed: Option<Vec<IpAddr>> = resolver
                .resolve("rebinding.example".parse().unwrap())
                .await
                .ok()
                .map(|open| open.map(|address| address.ip()).collect());
            let public = answer.contains(&"1.1.1.1");
            assert_eq!(handed, public.then(|| vec!["1.1.1.1".parse().unwrap()]), "{answer:?}");
        }
    }
    let turned = sender(false, "", Scripted::new(&[&["127.0.0.1"]]));
    assert!(matches!(post(&turned, &url).await, Err(NoAnswer::Blocked(_))));
    assert_eq!(connected.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_endpoint_in_a_named_private_network_is_connected_to() {
    let (port, connected) = server().await;
    let url = format!("https://inside.example:{port}/");
    let named = sender(false, "127.0.0.0/8", Scripted::new(&[&["127.0.0.1"]]));
    // The connection succeeds; the TLS handshake fails.
    let error = post(&named, &url).await.unwrap_err();
    assert!(matches!(error, NoAnswer::Unavailable(_)), "{error}");
    assert_eq!(connected.load(Ordering::SeqCst), 1);
}
