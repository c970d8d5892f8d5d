//! The ids of the orders that a command acts on. The operator gives them as arguments or on standard input.

use std::collections::HashSet;
use std::io::Read;

use clap::Args;
use topup_jobs::TopupId;

use crate::config::SettingsError;

/// The argument that stands for standard input.
const STDIN: &str = "-";
/// Maximum number of positions of invalid words that an error lists.
const MAX_NAMED: usize = 10;

#[derive(Debug, Args)]
pub(super) struct TopupIds {
    /// The provider's ids of the orders, 24 hexadecimal digits each; `-` reads them from standard input, separated by
    /// spaces, commas or line ends
    #[arg(value_name = "TOPUP_ID")]
    pub(super) topup_ids: Vec<String>,
}

impl TopupIds {
    /// Returns each given id once, in the given sequence. Returns an error if any word is not an id.
    pub(super) fn read(&self) -> anyhow::Result<Vec<TopupId>> {
        let mut text = self.topup_ids.iter().filter(|id| *id != STDIN).cloned().collect::<Vec<_>>().join(" ");
        if self.topup_ids.iter().any(|id| id == STDIN) {
            text.push(' ');
            std::io::stdin().read_to_string(&mut text)?;
        }
        Ok(parse(&text)?)
    }
}

fn parse(text: &str) -> Result<Vec<TopupId>, SettingsError> {
    let words = text.split(|at: char| at.is_whitespace() || at == ',').filter(|word| !word.is_empty());
    let parsed: Vec<_> = words.map(str::parse::<TopupId>).collect();
    let wrong = parsed.iter().enumerate().filter(|(_, id)| id.is_err()).map(|(n, _)| n + 1);
    // An error lists positions and not words, because a word may be a phone number.
    let wrong: Vec<String> = wrong.map(|n| n.to_string()).collect();
    let why = match wrong.len() {
        0 if parsed.is_empty() => "name at least one order".to_owned(),
        0 => {
            let mut met = HashSet::new();
            return Ok(parsed.into_iter().flatten().filter(|id| met.insert(id.clone())).collect());
        }
        count => format!(
            "{count} of {} words are not ids, the first at {}; a topupId has 24 hexadecimal digits. Nothing was done",
            parsed.len(),
            wrong[..count.min(MAX_NAMED)].join(", ")
        ),
    };
    Err(SettingsError::Unusable { name: "<TOPUP_ID>", why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_be_separated_by_spaces_commas_or_line_ends_and_count_once() {
        let (one, two) = ("6901616fe9e88196b4eb64b2", "6901616FE9E88196B4EB64B3");
        let read = parse(&format!(" {one},{two}\r\n\n{one}\t{} ", two.to_lowercase())).unwrap();
        assert_eq!(read, [one.parse().unwrap(), two.parse().unwrap()]);
    }

    #[test]
    fn one_invalid_word_rejects_all_ids_and_is_not_shown() {
        let why =
            parse("6901616fe9e88196b4eb64b2 0661223344 6901616fe9e8 8196b4eb64b2").unwrap_err().to_string();
        assert!(why.contains("3 of 4 words are not ids, the first at 2, 3, 4"), "{why}");
        assert!(!why.contains("0661223344"), "{why}");
        assert!(parse(" \n").unwrap_err().to_string().contains("at least one order"));
    }
}
