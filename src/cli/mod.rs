//! The command line, with one file per command.

mod adopt_store;
mod bench;
mod callback_secret;
mod check;
mod correct;
mod dead_letters;
mod demo;
mod doctor;
mod effective;
mod enqueue;
mod environment;
mod keygen;
mod messages;
mod migrate;
mod order;
mod order_filter;
mod orders;
mod private;
mod rejected;
mod rekey;
mod resend;
mod run;
mod simulate_api;
mod standing;
mod stop;
mod store;
mod topup_ids;

use std::io::Write;
use std::path::PathBuf;

use chrono::SecondsFormat;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use topup_jobs::Timestamp;

use self::environment::Refused;
use crate::config::{LogSettings, RedisSettings, SettingsError};
use crate::deployment::Refusal;
use crate::provider::ClientError;
use crate::redis::{Connection, RedisHealth};
use crate::telemetry;

/// Takes an internet top-up order from "sent" to "the customer has the card".
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    log: LogSettings,

    /// Read variables from this file too, one NAME=value a line; the environment goes first
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,

    /// Warnings about lines of `--env-file` that are probably mistakes.
    #[arg(skip)]
    oddities: Vec<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a worker: track orders, store every change, notify customers
    Run(Box<crate::config::RunSettings>),
    /// Run the jobs of a dead worker in a separate process; started by a worker
    #[command(hide = true)]
    RunJob(Box<crate::config::RunSettings>),
    /// Run a one-minute demonstration: a private Redis, the simulator, two workers and about sixty orders
    Demo(demo::DemoSettings),
    /// Serve the provider's API as documented, with orders that end quickly
    SimulateApi(simulate_api::SimulateApiSettings),
    /// Hand an order over, as a producer does
    Enqueue(enqueue::EnqueueSettings),
    /// Show what is stored of an order, its notifications and its history
    Order(Box<order::OrderSettings>),
    /// List orders by status, reference, number, customer, dead letter, or what is not delivered
    Orders(Box<orders::OrdersSettings>),
    /// Check orders now; an order that was stopped or given up is tracked again
    Check(Box<check::CheckSettings>),
    /// Change the customer, callback or metadata of an order for notifications not sent yet
    Correct(correct::CorrectSettings),
    /// Stop tracking orders
    Stop(stop::StopSettings),
    /// Show, replay or delete dead letters
    DeadLetters(dead_letters::DeadLettersSettings),
    /// Send the pending notifications of an order now, or an event again
    Resend(Box<resend::ResendSettings>),
    /// Show, replay or delete messages that could not be accepted
    Rejected(rejected::RejectedSettings),
    /// Bring the tables of the database up to date
    Migrate(migrate::MigrateSettings),
    /// Make this database, in place of another, the owner of the jobs in Redis; only while no worker runs
    AdoptStore(adopt_store::AdoptStoreSettings),
    /// Encrypt the stored cards with the current key, after a change of ENCRYPTION_KEY
    Rekey(rekey::RekeySettings),
    /// Print a new ENCRYPTION_KEY
    Keygen,
    /// Print the secret with which a callback host verifies its events
    CallbackSecret(Box<callback_secret::CallbackSecretSettings>),
    /// Check everything `run` needs and report what to correct; changes and sends nothing
    Doctor(Box<doctor::DoctorSettings>),
    /// Measure the queue on this machine
    Bench(bench::BenchSettings),
    /// A worker of `bench`
    #[command(hide = true)]
    BenchWorker(bench::BenchWorkerSettings),
    /// Run the jobs of a dead worker of `bench`
    #[command(hide = true)]
    BenchJob,
}

/// Exit code of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded.
    Done = 0,
    /// The command failed, but not because of a setting.
    Failed = 1,
    /// A setting cannot be used.
    BadSettings = 2,
}

impl Cli {
    /// Reads the command line of this process with its environment.
    ///
    /// # Errors
    /// [`Exit::BadSettings`] if a variable cannot be used; the reasons are written to standard error. A command line
    /// that cannot be used, or that asks for help, ends the process.
    pub fn read() -> Result<Self, Exit> {
        let (command, args) = (Self::command(), std::env::args_os().collect::<Vec<_>>());
        match environment::matches(&command, &args) {
            Ok((matches, variables)) => {
                let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
                if let Command::Doctor(settings) = &mut cli.command {
                    settings.effective = effective::settings(&command, &matches, &variables);
                }
                cli.oddities = variables.oddities(&command);
                Ok(cli)
            }
            Err(Refused::CommandLine(error)) => error.exit(),
            Err(Refused::Variables(words, others, hints)) => {
                let others = others.and_then(|matches| Self::from_arg_matches(&matches).ok());
                let others = others.map(|cli| cli.faults_beside(&words)).unwrap_or_default();
                for words in words.into_iter().chain(others).chain(hints) {
                    let _ = writeln!(std::io::stderr(), "{words}");
                }
                Err(Exit::BadSettings)
            }
        }
    }

    /// Returns the faults in the settings of `run` or `doctor`, without those of variables that `words` already name.
    fn faults_beside(&self, words: &[String]) -> Vec<String> {
        let settings = match &self.command {
            Command::Run(settings) => settings,
            Command::Doctor(settings) => &settings.run,
            _ => return Vec::new(),
        };
        let named =
            |fault: &String| words.iter().any(|words| words.split(' ').next() == fault.split(' ').next());
        settings.faults().iter().map(ToString::to_string).filter(|fault| !named(fault)).collect()
    }

    /// Runs the command and logs its error.
    pub async fn execute(self) -> Exit {
        telemetry::init(self.log.log_format, &self.log.rust_log);
        for oddity in &self.oddities {
            tracing::warn!("{oddity}");
        }
        let done = |()| Exit::Done;
        let ended = match self.command {
            Command::Run(settings) => Box::pin(run::run(*settings)).await.map(done),
            Command::RunJob(settings) => Box::pin(run::run_job(*settings)).await.map(done),
            Command::Demo(settings) => demo::demo(settings).await.map(done),
            Command::SimulateApi(settings) => simulate_api::simulate_api(settings).await.map(done),
            Command::Enqueue(settings) => enqueue::enqueue(settings).await.map(done),
            Command::Order(settings) => order::order(*settings).await.map(done),
            Command::Orders(settings) => orders::orders(*settings).await.map(done),
            Command::Check(settings) => check::check(*settings).await.map(done),
            Command::Correct(settings) => correct::correct(settings).await.map(done),
            Command::Stop(settings) => stop::stop(settings).await.map(done),
            Command::DeadLetters(settings) => dead_letters::dead_letters(settings).await.map(done),
            Command::Resend(settings) => resend::resend(*settings).await.map(done),
            Command::Rejected(settings) => rejected::rejected(settings).await.map(done),
            Command::Migrate(settings) => migrate::migrate(&settings).await.map(done),
            Command::AdoptStore(settings) => adopt_store::adopt_store(settings).await.map(done),
            Command::Rekey(settings) => rekey::rekey(&settings).await,
            Command::Keygen => keygen::keygen().map(done),
            Command::CallbackSecret(settings) => callback_secret::callback_secret(&settings).map(done),
            Command::Doctor(settings) => doctor::doctor(*settings).await,
            Command::Bench(settings) => bench::bench(settings).await.map(done),
            Command::BenchWorker(settings) => bench::bench_worker(settings).await.map(done),
            Command::BenchJob => bench::bench_job().await.map(done),
        };
        match ended {
            Ok(exit) => exit,
            Err(error) => {
                if tracing::enabled!(tracing::Level::ERROR) {
                    tracing::error!("{error:#}");
                } else {
                    // A failed command reports the reason even if the log level hides errors.
                    let _ = writeln!(std::io::stderr(), "{error:#}");
                }
                let refused = error.downcast_ref::<Refusal>().is_some_and(Refusal::is_of_a_setting);
                let settings = refused || error.is::<SettingsError>() || error.is::<ClientError>();
                if settings { Exit::BadSettings } else { Exit::Failed }
            }
        }
    }
}
fn say(line: impl std::fmt::Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")?;
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "it takes the place of the error")]
fn failed(error: redis::RedisError) -> anyhow::Error {
    anyhow::anyhow!("the request to Redis failed: {}", crate::redis::describe(&error))
}

fn connect(settings: &RedisSettings) -> anyhow::Result<Connection> {
    Ok(Connection::new(&settings.address()?, &RedisHealth::default()))
}

/// Formats a time to the second, or a dash for `None`.
fn time(at: impl Into<Option<Timestamp>>) -> String {
    at.into().map_or_else(|| "–".to_owned(), |at| at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// Replaces control characters by spaces. Any program may have written the text in Redis, so it is not trusted.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}
