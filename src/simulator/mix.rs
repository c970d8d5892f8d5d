//! The mix: the lives (sequences of statuses) that an order can have, and how often each is drawn.
//!
//! The times are the documented ones: typically 3–45 s, 12–48 h for a queued order, at least 330 s for a slow order (as
//! in the provider's sample). All randomness comes from the given generator: the same seed must give the same lives.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::script::{Answer, Script};

/// One in six queued orders is refunded instead of fulfilled.
const QUEUED_REFUNDED_ONE_IN: u32 = 6;

/// Weights of the four lives (sequences of statuses), written `fulfilled=70,refunded=10,queued=15,slow=5`; 0 if absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// `FULFILLED` within 45 seconds.
    pub fulfilled: u32,
    /// `REFUNDED` within 40 seconds.
    pub refunded: u32,
    /// `QUEUED` within 30 seconds, final after 20 to 44 hours.
    pub queued: u32,
    /// `HANDLING` for more than the five minutes of fast polling, then `FULFILLED`.
    pub slow: u32,
}

impl Default for Mix {
    fn default() -> Self {
        Self { fulfilled: 70, refunded: 10, queued: 15, slow: 5 }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fulfilled, refunded, queued, slow } = self;
        write!(f, "fulfilled={fulfilled},refunded={refunded},queued={queued},slow={slow}")
    }
}

/// Why a text is not a [`Mix`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MixError {
    /// A part is not `name=weight`.
    #[error("\"{0}\" is not name=weight; write for example fulfilled=70,refunded=10,queued=15,slow=5")]
    NotAPair(String),
    /// A name is not one of the four lives (sequences of statuses).
    #[error("\"{0}\" is not a life of an order; the lives are fulfilled, refunded, queued and slow")]
    UnknownLife(String),
    /// A weight is not a whole number.
    #[error("the weight of {life} must be a whole number from 0 up, not \"{weight}\"")]
    BadWeight {
        /// Name of the life (sequence of statuses).
        life: String,
        /// The weight as written.
        weight: String,
    },
    /// A life (the sequence of statuses of an order) is named twice.
    #[error("{0} is named twice")]
    Repeated(String),
    /// All weights are zero.
    #[error("at least one weight must be above 0")]
    AllZero,
}

impl FromStr for Mix {
    type Err = MixError;

    fn from_str(text: &str) -> Result<Self, MixError> {
        let mut mix = Self { fulfilled: 0, refunded: 0, queued: 0, slow: 0 };
        let mut seen: Vec<&str> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (life, weight) = part.split_once('=').ok_or_else(|| MixError::NotAPair(part.to_owned()))?;
            let (life, weight) = (life.trim(), weight.trim());
            let slot = match life {
                "fulfilled" => &mut mix.fulfilled,
                "refunded" => &mut mix.refunded,
                "queued" => &mut mix.queued,
                "slow" => &mut mix.slow,
                _ => return Err(MixError::UnknownLife(life.to_owned())),
            };
            if seen.contains(&life) {
                return Err(MixError::Repeated(life.to_owned()));
            }
            seen.push(life);
            *slot = weight
                .parse()
                .map_err(|_| MixError::BadWeight { life: life.to_owned(), weight: weight.to_owned() })?;
        }
        if mix.total() == 0 { Err(MixError::AllZero) } else { Ok(mix) }
    }
}

impl Mix {
    fn total(self) -> u64 {
        [self.fulfilled, self.refunded, self.queued, self.slow].into_iter().map(u64::from).sum()
    }

    /// Draws a life (sequence of statuses); `Fulfilled` if all weights are 0, which only a mix built in code can have.
    fn draw(self, rng: &mut StdRng) -> Life {
        let mut point = rng.random_range(0..self.total().max(1));
        for (life, weight) in [
            (Life::Fulfilled, self.fulfilled),
            (Life::Refunded, self.refunded),
            (Life::Queued, self.queued),
            (Life::Slow, self.slow),
        ] {
            let weight = u64::from(weight);
            if point < weight {
                return life;
            }
            point -= weight;
        }
        Life::Fulfilled
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Fulfilled,
    Refunded,
    Queued,
    Slow,
    Handling,
}

impl Life {
    /// The life (sequence of statuses) requested by a hint in the reference, such as `order-7-sim-queued`.
    fn hinted(reference: &str) -> Option<Self> {
        [
            ("sim-fulfilled", Self::Fulfilled),
            ("sim-refunded", Self::Refunded),
            ("sim-queued", Self::Queued),
            ("sim-slow", Self::Slow),
            ("sim-handling", Self::Handling),
        ]
        .into_iter()
        .find_map(|(hint, life)| reference.contains(hint).then_some(life))
    }

    fn script(self, rng: &mut StdRng) -> Script {
        match self {
            // The square favours short times: half of the orders finish within 14 seconds.
            Self::Fulfilled => {
                Script::fulfilled_after(Duration::from_secs_f64(3.0 + 42.0 * rng.random::<f64>().powi(2)))
            }
            Self::Refunded => Script::refunded_after(between(rng, 5_000, 40_000)),
            Self::Queued => {
                let queued = between(rng, 5_000, 30_000);
                let last = between(rng, 20 * 3_600_000, 44 * 3_600_000);
                let end = match rng.random_range(0..QUEUED_REFUNDED_ONE_IN) {
                    0 => Answer::Refunded,
                    _ => Answer::Fulfilled,
                };
                Script::default().then(queued, Answer::Queued).then(last, end)
            }
            Self::Slow => Script::fulfilled_after(between(rng, 330_000, 900_000)),
            Self::Handling => Script::handling_forever(),
        }
    }
}

fn between(rng: &mut StdRng, from_ms: u64, to_ms: u64) -> Duration {
    Duration::from_millis(rng.random_range(from_ms..=to_ms))
}

/// The script for an order: that of the hint in its reference, or else one drawn from the mix.
pub(super) fn script_for(mix: Mix, reference: &str, rng: &mut StdRng) -> Script {
    let drawn = mix.draw(rng);
    Life::hinted(reference).unwrap_or(drawn).script(rng)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn only(text: &str) -> Mix {
        text.parse().expect("a mix")
    }

    #[test]
    fn a_mix_parses_its_own_display_and_the_default_is_the_documented_one() {
        assert_eq!(Mix::default().to_string(), "fulfilled=70,refunded=10,queued=15,slow=5");
        assert_eq!(only(&Mix::default().to_string()), Mix::default());
        assert_eq!(only(" queued = 2 , slow=1 "), Mix { fulfilled: 0, refunded: 0, queued: 2, slow: 1 });
    }

    #[test]
    fn an_invalid_mix_is_refused_in_words() {
        for (text, words) in [
            ("fulfilled", "not name=weight"),
            ("lost=1", "not a life of an order"),
            ("slow=-1", "weight of slow"),
            ("slow=1,slow=2", "named twice"),
            ("slow=0", "above 0"),
            ("", "above 0"),
        ] {
            let error = Mix::from_str(text).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn draws_follow_the_weights() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = [0_u32; 5];
        for _ in 0..10_000 {
            counts[Mix::default().draw(&mut rng) as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([7_000, 1_000, 1_500, 500, 0]) {
            assert!(count.abs_diff(expected) < 200, "{counts:?}");
        }
    }

    #[test]
    fn every_life_keeps_to_its_documented_times() {
        let mut rng = StdRng::seed_from_u64(1);
        let status = |script: &Script, secs: u64| script.truth(Duration::from_secs(secs));
        let mut refunded = 0_u32;
        for _ in 0..600 {
            let script = script_for(only("fulfilled=1"), "", &mut rng);
            assert_eq!((status(&script, 2), status(&script, 45)), (Answer::Handling, Answer::Fulfilled));
            let script = script_for(only("refunded=1"), "", &mut rng);
            assert_eq!((status(&script, 4), status(&script, 40)), (Answer::Handling, Answer::Refunded));
            let script = script_for(only("slow=1"), "", &mut rng);
            assert_eq!((status(&script, 329), status(&script, 900)), (Answer::Handling, Answer::Fulfilled));
            let script = script_for(only("queued=1"), "", &mut rng);
            assert_eq!((status(&script, 4), status(&script, 30)), (Answer::Handling, Answer::Queued));
            assert_eq!(status(&script, 20 * 3600 - 1), Answer::Queued);
            refunded += u32::from(status(&script, 44 * 3600) == Answer::Refunded);
            assert_ne!(status(&script, 44 * 3600), Answer::Queued);
        }
        assert!((60..140).contains(&refunded), "{refunded} of 600 queued orders were refunded");
    }

    #[test]
    fn a_hint_in_the_reference_overrides_the_mix() {
        let mut rng = StdRng::seed_from_u64(1);
        let day = Duration::from_hours(1000);
        let script = script_for(only("fulfilled=1"), "a-sim-handling-b", &mut rng);
        assert_eq!(script.truth(day), Answer::Handling);
        let script = script_for(only("fulfilled=1"), "sim-refunded", &mut rng);
        assert_eq!(script.truth(day), Answer::Refunded);
    }
}
