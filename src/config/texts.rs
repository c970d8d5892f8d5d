//! The section of customer texts: templates, and whether customers are notified of a delay.

use std::path::Path;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use topup_jobs::Locale;

use super::{SettingsError, unusable};
use crate::notify::Templates;

/// Settings of the texts that customers read.
#[derive(Debug, Clone, Args)]
pub struct TextSettings {
    /// Folder with templates that replace the built-in ones of the same names
    #[arg(long, env = "TEMPLATES_DIR")]
    pub templates_dir: Option<String>,

    /// Also notify customers when an order takes longer than usual
    #[arg(long, env = "CUSTOMER_DELAYED")]
    pub customer_delayed: bool,
}

impl TextSettings {
    pub(super) fn templates(&self) -> Result<Templates, SettingsError> {
        let folder = self.templates_dir.as_deref().filter(|folder| !folder.trim().is_empty());
        Templates::load(folder.map(Path::new)).map_err(|error| unusable("TEMPLATES_DIR", error.to_string()))
    }
}

pub(super) fn locale_parser() -> impl TypedValueParser<Value = Locale> {
    PossibleValuesParser::new(["fr", "ar", "en"]).map(|word| match word.as_str() {
        "ar" => Locale::Ar,
        "en" => Locale::En,
        _ => Locale::Fr,
    })
}
