//! Settings of the simulator, as flags and environment variables; an error explains the mistake.
//!
//! Ids and flags have the prefix `simulator-`, so that they differ from the worker's settings in the same command. The
//! time scale is not a setting here, because it applies to the whole program; `Simulator::new` takes it as an argument.

use std::fmt;
use std::net::IpAddr;

use clap::builder::BoolishValueParser;

use super::mix::Mix;

/// Form of the answer to a list request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ListForm {
    /// Rows in "data.topups" and the pagination in "meta", as on the provider's reference page
    #[default]
    Documented,
    /// Rows in "data.topups" and the pagination beside them
    Topups,
    /// Rows in "data.items" and the pagination beside them, as for mobile top-ups
    Items,
    /// Rows in "data.topups", without pagination
    Unpaged,
}

/// Card fields that a row of the list shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ListCard {
    /// The code and "num_trans", but no "date_traitement", as on the provider's reference page
    #[default]
    Documented,
    /// All three fields
    Complete,
    /// Nothing
    None,
}

/// How the simulated provider behaves.
#[derive(Clone, PartialEq, clap::Args)]
#[command(next_help_heading = "Simulator")]
pub struct SimulatorSettings {
    /// Seed of all random choices: the same seed gives every order the same answers and card
    #[arg(
        id = "simulator-seed",
        long = "simulator-seed",
        env = "SIMULATOR_SEED",
        value_name = "NUMBER",
        default_value_t = 1
    )]
    pub seed: u64,

    /// Keys that are accepted in X-Access-Token, separated by commas
    #[arg(
        id = "simulator-api-keys", long = "simulator-api-keys", env = "SIMULATOR_API_KEYS",
        value_name = "KEYS", hide_env_values = true, value_delimiter = ',', default_value = "sandbox-key", value_parser = key
    )]
    pub api_keys: Vec<String>,

    /// Addresses that are answered 403 IP_NOT_ALLOWED, separated by commas
    #[arg(
        id = "simulator-denied-addresses",
        long = "simulator-denied-addresses",
        env = "SIMULATOR_DENIED_ADDRESSES",
        value_name = "ADDRESSES",
        value_delimiter = ','
    )]
    pub denied_addresses: Vec<IpAddr>,

    /// Requests each key may make in any minute of domain time; 0 means no limit
    #[arg(
        id = "simulator-rate-limit",
        long = "simulator-rate-limit",
        env = "SIMULATOR_RATE_LIMIT",
        value_name = "REQUESTS",
        default_value_t = 0
    )]
    pub rate_limit: u32,

    /// Send Retry-After with a 429 (the provider usually does not)
    #[arg(
        id = "simulator-retry-after", long = "simulator-retry-after", env = "SIMULATOR_RETRY_AFTER",
        value_parser = BoolishValueParser::new()
    )]
    pub retry_after: bool,

    /// Weights of the lives (sequences of statuses) drawn for orders without a hint in "ref"
    #[arg(
        id = "simulator-mix", long = "simulator-mix", env = "SIMULATOR_MIX", value_name = "WEIGHTS",
        default_value_t = Mix::default()
    )]
    pub mix: Mix,

    /// Card fields in the rows of the list
    #[arg(
        id = "simulator-list-card",
        long = "simulator-list-card",
        env = "SIMULATOR_LIST_CARD",
        value_name = "CARD",
        default_value = "documented"
    )]
    pub list_card: ListCard,

    /// Form of the list
    #[arg(
        id = "simulator-list-form",
        long = "simulator-list-form",
        env = "SIMULATOR_LIST_FORM",
        value_name = "FORM",
        default_value = "documented"
    )]
    pub list_form: ListForm,

    /// Share of checks, from 0 to 1, that are answered with a fault: 500, 503, HTML instead of JSON, cut JSON or
    /// a dropped connection
    #[arg(
        id = "simulator-error-rate", long = "simulator-error-rate", env = "SIMULATOR_ERROR_RATE",
        value_name = "SHARE", default_value_t = 0.0, value_parser = share
    )]
    pub error_rate: f64,

    /// Real milliseconds added to each answer
    #[arg(
        id = "simulator-latency-ms",
        long = "simulator-latency-ms",
        env = "SIMULATOR_LATENCY_MS",
        value_name = "MS",
        default_value_t = 0
    )]
    pub latency_ms: u64,
}

impl Default for SimulatorSettings {
    fn default() -> Self {
        Self {
            seed: 1,
            api_keys: vec!["sandbox-key".to_owned()],
            denied_addresses: Vec::new(),
            rate_limit: 0,
            retry_after: false,
            mix: Mix::default(),
            list_card: ListCard::default(),
            list_form: ListForm::default(),
            error_rate: 0.0,
            latency_ms: 0,
        }
    }
}

/// Written by hand, because a key must never reach a log; only the number of keys is shown.
impl fmt::Debug for SimulatorSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatorSettings")
            .field("seed", &self.seed)
            .field("api_keys", &format_args!("[{} redacted]", self.api_keys.len()))
            .field("denied_addresses", &self.denied_addresses)
            .field("rate_limit", &self.rate_limit)
            .field("retry_after", &self.retry_after)
            .field("mix", &self.mix)
            .field("list_card", &self.list_card)
            .field("list_form", &self.list_form)
            .field("error_rate", &self.error_rate)
            .field("latency_ms", &self.latency_ms)
            .finish()
    }
}

fn key(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("a key must not be empty".to_owned());
    }
    // A header cannot carry other characters, so such a key could never match.
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a key may hold only visible ASCII characters without spaces".to_owned());
    }
    Ok(text.to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("must be a number from 0 to 1, such as 0.05".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        simulator: SimulatorSettings,
    }

    fn parse(args: &[&str]) -> Result<SimulatorSettings, String> {
        Command::try_parse_from([&["test"], args].concat())
            .map(|command| command.simulator)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(parse(&[]), Ok(SimulatorSettings::default()));
    }

    #[test]
    fn every_setting_is_a_flag() {
        let settings = parse(&[
            "--simulator-seed=9",
            "--simulator-api-keys=one,two",
            "--simulator-denied-addresses=192.0.2.1,::1",
            "--simulator-rate-limit=60",
            "--simulator-retry-after",
            "--simulator-mix=slow=1",
            "--simulator-list-card=complete",
            "--simulator-list-form=unpaged",
            "--simulator-error-rate=0.25",
            "--simulator-latency-ms=20",
        ]);
        let expected = SimulatorSettings {
            seed: 9,
            api_keys: vec!["one".to_owned(), "two".to_owned()],
            denied_addresses: vec![[192, 0, 2, 1].into(), Ipv6Addr::LOCALHOST.into()],
            rate_limit: 60,
            retry_after: true,
            mix: Mix { fulfilled: 0, refunded: 0, queued: 0, slow: 1 },
            list_card: ListCard::Complete,
            list_form: ListForm::Unpaged,
            error_rate: 0.25,
            latency_ms: 20,
        };
        assert_eq!(settings, Ok(expected));
    }

    #[test]
    fn impossible_settings_are_refused_in_words() {
        for (arg, words) in [
            ("--simulator-error-rate=1.5", "from 0 to 1"),
            ("--simulator-error-rate=NaN", "from 0 to 1"),
            ("--simulator-api-keys=one,,two", "must not be empty"),
            ("--simulator-api-keys=o ne", "visible ASCII"),
            ("--simulator-mix=fast=1", "not a life of an order"),
        ] {
            let error = parse(&[arg]).expect_err(arg);
            assert!(error.contains(words), "{arg}: {error}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", SimulatorSettings::default());
        assert!(!shown.contains("sandbox-key"), "{shown}");
        assert!(shown.contains("1 redacted"), "{shown}");
    }
}
