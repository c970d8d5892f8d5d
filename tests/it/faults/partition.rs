//! A worker in a network of its own that is cut off from Redis beyond its lease: no goodbye, no reset, only
//! silence. Needs Linux and root; prints a line and passes where there is neither, unless
//! `TOPUP_TEST_REQUIRE_NETNS=1` says that it must be tested.

use std::process::Command;
use std::time::Duration;

use crate::support::engine::{Act, Engine, Part, Settings};
use crate::support::{Proxy, leave_out, until};

/// A network namespace with one wire to this one. Dropping it removes both.
struct Network {
    name: String,
    /// This side's end of the wire.
    wire: String,
    /// Address of this side.
    address: String,
}

impl Network {
    fn new() -> Result<Self, String> {
        let number = std::process::id();
        let (name, wire, end) = (format!("topup-{number}"), format!("tua{number}"), format!("tub{number}"));
        // A network of four addresses out of 10.213.0.0/16, by the process: tests run side by side.
        let net = number % (1 << 14);
        let address = |host: u32| format!("10.213.{}.{}", net >> 6, (net & 63) * 4 + host);
        let network = Self { name: name.clone(), wire: wire.clone(), address: address(1) };
        // A test that was killed may have had our number.
        network.remove();
        ip(&["netns", "add", &name])?;
        ip(&["link", "add", &wire, "type", "veth", "peer", "name", &end, "netns", &name])?;
        ip(&["addr", "add", &format!("{}/30", address(1)), "dev", &wire])?;
        ip(&["link", "set", &wire, "up"])?;
        ip(&["-n", &name, "addr", "add", &format!("{}/30", address(2)), "dev", &end])?;
        ip(&["-n", &name, "link", "set", &end, "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])?;
        Ok(network)
    }

    fn remove(&self) {
        // The wire goes with the namespace; either may never have come to be.
        let _ = ip(&["link", "del", &self.wire]);
        let _ = ip(&["netns", "del", &self.name]);
    }

    fn cut(&self) {
        ip(&["link", "set", &self.wire, "down"]).expect("the wire is cut");
    }

    fn mend(&self) {
        ip(&["link", "set", &self.wire, "up"]).expect("the wire is mended");
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
async fn a_worker_that_is_cut_off_loses_its_jobs_to_others_and_comes_back_under_a_new_name() {
    let network = match Network::new() {
        Ok(network) => network,
        Err(reason) => {
            leave_out("a worker that is cut off", reason.trim(), "TOPUP_TEST_REQUIRE_NETNS");
            return;
        }
    };
    let engine = Engine::new().await;
    let proxy = Proxy::start_at(&network.address, &engine.redis.url(), Duration::ZERO).await;
    let done: Vec<Part> = (100..107).map(|n| Part::new(n, [Act::Finish.behind("early")])).collect();
    let running: Vec<Part> = (200..207).map(|n| Part::new(n, [Act::Finish.behind("late")])).collect();
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
    // Suspects run in half of the slots, and all of these wait there at once.
    let mut near = engine.worker(2 * held.len()).await;
    far.apart();
    network.cut();
    engine.begun(held.len(), |run| run.owner == near.pid()).await;
    // What it ends while it is cut off, it cannot settle; the others do.
    engine.open("early");
    until("the other has done what it can", async || {
        let ledger = engine.ledger().await.ok()?;
        (ledger.running.len() == running.len()).then_some(())
    })
    .await;
    far.logs("Redis does not answer").await;
    far.back();
    network.mend();
    far.logs("starts under a new name").await;
    engine.open("late");
    far.logs("their results are dropped").await;
    engine.account(&held).await;

    // It is a worker like any other again: alone, it takes all there is, and at a word.
    assert!(near.stop().await.success(), "{}", near.log());
    let mut parts = held;
    until("it is woken", async || engine.is_woken(&mut parts).await.then_some(())).await;
    engine.account(&parts).await;
    far.assert_runs();
}
