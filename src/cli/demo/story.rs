//! The course of the demo: its actions, their times, and what is printed. The times are real (not scaled) time since
//! the first order. Between its actions the demo only observes the workers and prints what they have done.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use redis::AsyncCommands;
use redis::streams::StreamRangeReply;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;

use super::ledger::{Counts, Ledger};
use super::narrator::{Narrator, Scene, domain_clock, jobs};
use super::producer::Producer;
use super::screen::Screen;
use super::shop::{ANSWER_TIME, Shop};
use super::stage::{Casting, QUEUES, Stage};
use super::verdict::{Evidence, ProvidersWord, Verdict};
use super::{DemoSettings, TIME_SCALE};
use crate::cli::private::{Folder, redis_server};
use crate::orders::CardCipher;
use crate::redis::Names;
use crate::simulator::{Simulator, SimulatorSettings, serve};

const TICK: Duration = Duration::from_millis(100);
const NONSENSE_AT: Duration = Duration::from_secs(3);
const KILL_AT: Duration = Duration::from_secs(10);
const REPLACE_AFTER: Duration = Duration::from_secs(4);
/// Maximum wait, before the kill, until the worker holds a notification. A worker killed at that moment may have sent
/// the event to the shop without recording that; another worker then sends the event again.
const BUSY_TIME: Duration = Duration::from_millis(500);
/// One day of domain time.
const A_DAY: Duration = Duration::from_hours(24);
/// Real time after which the demo fails. The longest order takes 48 hours, which pass in 48 seconds here.
const DEADLINE: Duration = Duration::from_secs(75);

/// State of the demo from the first order to the verdict.
struct Story<'a> {
    screen: &'a Screen,
    folder: &'a Folder,
    stage: &'a mut Stage,
    casting: Casting,
    producer: Producer,
    shop: Shop,
    simulator: Simulator,
    ledger: Ledger,
    started: Instant,
    nonsense_sent: bool,
    killed: Option<(Duration, usize)>,
    replaced: bool,
    narrator: Narrator,
}

/// Sets the demo up, runs it, and compares provider, store and shop.
pub(super) async fn play(
    settings: &DemoSettings,
    redis_server: &Path,
    folder: &Folder,
    stage: &mut Stage,
    screen: &Screen,
) -> anyhow::Result<Verdict> {
    let names: Names = "{topup}".parse()?;
    let (process, redis_url) = redis_server::start(redis_server, folder).await?;
    stage.redis_runs(process);
    screen.tell("a private Redis is running; it writes every change to disk")?;

    let api_key = format!("demo-{}", ulid::Ulid::generate());
    let simulated =
        SimulatorSettings { seed: settings.seed, api_keys: vec![api_key.clone()], ..Default::default() };
    let simulator = Simulator::new(simulated, TIME_SCALE);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let api_url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(serve(listener, simulator.clone(), std::future::pending()));

    let secret = Shop::secret();
    let shop = Shop::new(&secret)?;
    let shop_url = shop.open().await?;
    screen.tell("a simulated provider is running, and a shop that checks every signature")?;

    let database_url = format!("sqlite://{}", folder.path().join("orders.db").display());
    let redis = redis::Client::open(redis_url.as_str())?.get_multiplexed_async_connection().await?;
    let mut casting = Casting {
        program: std::env::current_exe().context("the path of this program is unknown")?,
        settings: vec![
            ("REDIS_URL", redis_url),
            ("DATABASE_URL", database_url.clone()),
            ("ONECLICKDZ_API_URL", api_url.clone()),
            ("ONECLICKDZ_API_KEY", api_key.clone()),
            ("ENCRYPTION_KEY", CardCipher::generate_key().expose_secret().to_owned()),
            ("WEBHOOK_URL", shop_url),
            ("WEBHOOK_SECRET", secret),
            ("ALLOW_INSECURE_WEBHOOKS", "true".to_owned()),
            ("TIME_SCALE", TIME_SCALE.to_string()),
            ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
        ],
        names: names.clone(),
        redis: redis.clone(),
    };
    stage.start_workers(2, &mut casting, folder).await?;
    let orders = settings.orders;
    screen.tell(&format!("two workers are ready; a backend now sends {orders} orders, one XADD each"))?;
    screen.tell("")?;

    let mut story = Story {
        producer: Producer::new(orders, &api_url, &api_key, redis, &names)?,
        ledger: Ledger::open(&database_url).await?,
        started: Instant::now(),
        screen,
        folder,
        stage,
        casting,
        shop,
        simulator,
        nonsense_sent: false,
        killed: None,
        replaced: false,
        narrator: Narrator::default(),
    };
    let mut problems = story.run().await?;
    let took = story.started.elapsed();
    problems.extend(story.stage.stop_workers().await);
    story.verdict(took, problems).await
}

impl Story<'_> {
    /// Runs until every order is final and every event has arrived, or until [`DEADLINE`].
    async fn run(&mut self) -> anyhow::Result<Vec<String>> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let at = self.started.elapsed();
            self.producer.send_due(at).await?;
            self.act(at).await?;
            self.stage.must_run()?;
            let counts = self.ledger.counts().await?;
            let arrived = self.shop.book().taken();
            self.narrate(&counts).await?;
            self.screen.show(&self.clock(), &counts, arrived)?;
            let events = usize::try_from(counts.events).unwrap_or(usize::MAX);
            let sent = u64::try_from(self.producer.sent().len()).unwrap_or(u64::MAX);
            let over = self.producer.all_sent() && counts.settled() == sent;
            if over && self.replaced && counts.pending == 0 && arrived == events {
                return Ok(Vec::new());
            }
            if at > DEADLINE {
                let (over, pending) = (counts.settled(), counts.pending);
                return Ok(vec![format!(
                    "after {} seconds {over} of {sent} orders are final, and {pending} notifications have not arrived",
                    at.as_secs()
                )]);
            }
        }
    }

    /// Sends the invalid message, kills a worker and starts its replacement, each at its time.
    async fn act(&mut self, at: Duration) -> anyhow::Result<()> {
        if at >= NONSENSE_AT && !self.nonsense_sent {
            self.nonsense_sent = true;
            self.producer.send_nonsense().await?;
        }
        match self.killed {
            None if at >= KILL_AT => self.kill(at).await?,
            Some((killed_at, _)) if !self.replaced && at >= killed_at + REPLACE_AFTER => {
                self.replaced = true;
                self.stage.start_workers(1, &mut self.casting, self.folder).await?;
                self.tell("a new worker starts in its place")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends the last orders, and kills a worker while that worker holds jobs.
    async fn kill(&mut self, at: Duration) -> anyhow::Result<()> {
        self.producer.send_rest().await?;
        let give_up = Instant::now() + BUSY_TIME;
        while !self.stage.first_is_telling(&mut self.casting).await? && Instant::now() < give_up {
            tokio::task::yield_now().await;
        }
        // Halfway through the shop's answer time, the shop has received the event and the worker has no response yet.
        tokio::time::sleep(ANSWER_TIME / 2).await;
        let name = self.stage.first_worker().to_owned();
        let held = self.stage.kill_first(&mut self.casting).await?;
        self.killed = Some((at, held));
        let held = jobs(held);
        self.tell(&format!("more orders come in, and {name} is killed (kill -9) while it holds {held}"))?;
        self.tell("the other worker continues, and takes over these jobs once their lease has expired")
    }

    /// Prints a line for each event that has happened since the last call.
    async fn narrate(&mut self, counts: &Counts) -> anyhow::Result<()> {
        let rejected: usize = self.casting.redis.xlen(self.casting.names.rejected()).await?;
        let looked_again = self.looked_again();
        let lines = {
            let shop = &self.shop.book();
            self.narrator.lines(&Scene { counts, shop, rejected, looked_again })
        };
        lines.into_iter().try_for_each(|line| self.tell(line))
    }

    fn looked_again(&self) -> bool {
        let sent = self.producer.sent().iter();
        let mut last = sent.filter_map(|sent| self.simulator.calls(&sent.topup_id).pop());
        last.any(|call| call.at >= A_DAY && call.answer == "QUEUED")
    }

    fn tell(&self, line: &str) -> anyhow::Result<()> {
        self.screen.tell(&format!("{}   {line}", self.clock()))
    }

    fn clock(&self) -> String {
        domain_clock(self.started.elapsed())
    }

    async fn verdict(&mut self, took: Duration, problems: Vec<String>) -> anyhow::Result<Verdict> {
        let (redis, names) = (&mut self.casting.redis, &self.casting.names);
        let rejected: StreamRangeReply = redis.xrange_all(names.rejected()).await?;
        let reasons = rejected.ids.iter().map(|entry| entry.get("reason").unwrap_or_default());
        let rejected: Vec<String> = reasons.collect();
        let mut dead_letters = 0;
        for job in QUEUES {
            dead_letters += redis.scard::<_, usize>(format!("{}:dead", names.queue(job))).await?;
        }
        let inbox: usize = redis.xlen(names.inbox()).await?;
        let word = |id: &str| ProvidersWord {
            status: self.simulator.status(id).map_or("unknown".to_owned(), |status| status.to_string()),
            card_code: self.simulator.card_code(id),
            calls: self.simulator.calls(id).len(),
        };
        let sent = self.producer.sent();
        let provider: BTreeMap<_, _> =
            sent.iter().map(|sent| (sent.topup_id.clone(), word(&sent.topup_id))).collect();
        let books = self.ledger.books().await?;
        let shop = self.shop.book();
        Ok(Verdict::new(Evidence {
            sent,
            provider: &provider,
            books: &books,
            shop: &shop,
            rejected: &rejected,
            left_over: (dead_letters, inbox),
            killed_with: self.killed.map(|(_, held)| held),
            problems,
            took,
            domain: took.mul_f64(TIME_SCALE),
        }))
    }
}
