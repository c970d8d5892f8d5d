//! Checks the settings, and reports every setting that cannot be used.

use super::report::{Check, counted, in_words};
use crate::config::{Config, RunSettings};
use crate::notify::Templates;
use crate::provider::Client;

const NAME: &str = "settings";
const ADVICE: &str = "`topup-worker run --help` explains every setting";

/// Validates the settings as `run` does, or returns all faults.
pub(super) fn read(settings: RunSettings) -> Result<(Config, Client), Vec<Check>> {
    let wrong = settings.faults();
    if !wrong.is_empty() {
        return Err(wrong.into_iter().map(|fault| fail(&fault)).collect());
    }
    let config = settings.validate().map_err(|fault| vec![fail(&fault)])?;
    let client = Client::new(&config.api_url, &config.api_key).map_err(|fault| vec![fail(&fault)])?;
    if let Some(key) = &config.secondary_api_key {
        client.with_secondary_key(key).map_err(|fault| vec![fail(&fault)])?;
    }
    Ok((config, client))
}

fn fail(fault: &impl std::fmt::Display) -> Check {
    Check::fail(NAME, fault.to_string(), ADVICE)
}

/// Returns the finding for settings that can be used: a warning if the clock is scaled, otherwise ok.
pub(super) fn usable(time_scale: f64) -> Check {
    if (time_scale - 1.0).abs() < f64::EPSILON {
        return Check::ok(NAME, "every setting can be used");
    }
    let hour = std::time::Duration::from_hours(1).div_f64(time_scale);
    Check::warn(
        NAME,
        format!("TIME_SCALE is set: an hour passes in {}", in_words(hour)),
        "unset it for real orders; it is for demos and tests",
    )
}

/// Returns the finding for templates that can be used. [`read`] reports the others.
pub(super) fn templates(templates: &Templates) -> Check {
    let found = match templates.replaced() {
        0 => "the built-in ones".to_owned(),
        own => {
            format!("{} of TEMPLATES_DIR; all were tried with sample orders", counted(own as u64, "template"))
        }
    };
    Check::ok("templates", found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaled_clock_is_a_warning() {
        assert_eq!(usable(1.0), Check::ok(NAME, "every setting can be used"));
        assert_eq!(usable(3600.0).found, "TIME_SCALE is set: an hour passes in 1 s");
    }
}
