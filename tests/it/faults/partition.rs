//! A worker in its own network namespace is cut off from Redis for longer than its lease, without a TCP
//! reset. Needs Linux and root. Without them, the test prints a line and passes, unless
//! `TOPUP_TEST_REQUIRE_NETNS=1` is set.

use std::process::Command;
use std::time::Duration;

use crate::support::engine::{Act, Engine, Settings, TestJob};
use crate::support::{Proxy, skip_or_fail, until};

/// A network namespace with one link to this namespace. Dropping this removes both.
struct Network {
    name: String,
    /// This end of the link.
    link: String,
    /// Address of this end.
    address: String,
}

impl Network {
    fn new() -> Result<Self, String> {
        let number = std::process::id();
        let (name, link, peer) = (format!("topup-{number}"), format!("tua{number}"), format!("tub{number}"));
        // Each process uses its own four addresses of 10.213.0.0/16, because tests run concurrently.
        let net = number % (1 << 14);
        let address = |host: u32| format!("10.213.{}.{}", net >> 6, (net & 63) * 4 + host);
        let network = Self { name: name.clone(), link: link.clone(), address: address(1) };
        // A killed test may have left a namespace of this number.
        network.remove();
        ip(&["netns", "add", &name])?;
        ip(&["link", "add", &link, "type", "veth", "peer", "name", &peer, "netns", &name])?;
        ip(&["addr", "add", &format!("{}/30", address(1)), "dev", &link])?;
        ip(&["link", "set", &link, "up"])?;
        ip(&["-n", &name, "addr", "add", &format!("{}/30", address(2)), "dev", &peer])?;
        ip(&["-n", &name, "link", "set", &peer, "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        Ok(network)
    }

    fn remove(&self) {
        // The link is removed with the namespace. Both may be missing.
        let _ = ip(&["link", "del", &self.link]);
        let _ = ip(&["netns", "del", &self.name]);
    }

    fn cut(&self) {
        ip(&["link", "set", &self.link, "down"]).expect("the link is down");
    }

    fn restore(&self) {
        ip(&["link", "set", &self.link, "up"]).expect("the link is up");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    match Command::new("ip").args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr))),
        Err(error) => Err(format!("no ip: {error}")),
    }
}

#[tokio::test]
async fn a_worker_that_is_cut_off_loses_its_jobs_and_returns_under_a_new_name() {
    let network = match Network::new() {
        Ok(network) => network,
        Err(reason) => {
            skip_or_fail("a worker that is cut off", reason.trim(), "TOPUP_TEST_REQUIRE_NETNS");
            return;
        }
    };
    let engine = Engine::new().await;
    let proxy = Proxy::start_at(&network.address, &engine.redis.url(), Duration::ZERO).await;
    let done: Vec<TestJob> = (100..107).map(|n| TestJob::new(n, [Act::Finish.behind("early")])).collect();
    let running: Vec<TestJob> = (200..207).map(|n| TestJob::new(n, [Act::Finish.behind("late")])).collect();
    let held = [done, running.clone()].concat();
    let mut far = engine
        .start(&Settings {
            redis_url: proxy.url(),
            wrapper: ["ip", "netns", "exec", &network.name].map(str::to_owned).to_vec(),
            ..engine.settings(held.len())
        })
        .await;
    engine.push(&held).await;
    engine.begun(held.len(), |run| run.owner == far.pid()).await;
    // Suspects may use half of the slots, and all of these jobs wait in slots at once.
    let mut near = engine.worker(2 * held.len()).await;
    far.mark_unreachable();
    network.cut();
    engine.begun(held.len(), |run| run.owner == near.pid()).await;
    // The cut-off worker cannot settle the jobs that it finishes. The other worker does.
    engine.open("early");
    until("the other worker has done what it can", async || {
        let ledger = engine.ledger().await.ok()?;
        (ledger.running.len() == running.len()).then_some(())
    })
    .await;
    far.logs("Redis does not answer").await;
    far.mark_reachable();
    network.restore();
    far.logs("continues under a new name").await;
    engine.open("late");
    far.logs("its results are dropped").await;
    engine.assert_settled(&held).await;

    // Afterwards it works normally: alone, it runs all jobs and reacts to wake-ups.
    assert!(near.stop().await.success(), "{}", near.log());
    let mut jobs = held;
    until("the worker is woken", async || engine.is_woken(&mut jobs).await.then_some(())).await;
    engine.assert_settled(&jobs).await;
    far.assert_runs();
}
