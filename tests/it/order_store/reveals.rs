//! Reveal links, each of which shows a card to its customer once.

use futures_util::future::join_all;
use secrecy::{ExposeSecret, SecretString};
use topup_jobs::Outcome;
use topup_worker::orders::{CardCipher, Occurrence, OrderStore, RevealOutcome, SqlStore};

use super::database::{TestDatabase, at, by_sms, fulfill, id, mark_sent};
use crate::support::ENCRYPTION_KEY;

super::on_both!(
    every_attempt_sends_the_same_link,
    one_of_many_concurrent_correct_tries_shows_the_card,
    wrong_tries_use_up_a_link,
);

/// Tries that a link allows in these tests.
const TRIES: u32 = 3;

async fn link(store: &SqlStore, number: u32) -> SecretString {
    store.reveal_token(&by_sms(&id(number), Outcome::Fulfilled), at(10), at(1_000)).await.unwrap()
}

async fn results(store: &SqlStore, number: u32) -> Vec<(u32, String)> {
    let history = store.history(&id(number)).await.unwrap();
    let results = history.into_iter().filter_map(|entry| match entry.what {
        Occurrence::Asked { channel, tries, result } => {
            assert_eq!(channel, "sms");
            Some((tries, result))
        }
        _ => None,
    });
    results.collect()
}

async fn every_attempt_sends_the_same_link(database: &TestDatabase) {
    let store = database.store().await;
    fulfill(&store, &id(1), at(0)).await;
    fulfill(&store, &id(2), at(0)).await;
    let (first, other) = (link(&store, 1).await, link(&store, 2).await);
    assert_ne!(first.expose_secret(), other.expose_secret());
    let fulfilled = by_sms(&id(1), Outcome::Fulfilled);
    let again = database.store().await.reveal_token(&fulfilled, at(60), at(9_000)).await.unwrap();
    assert_eq!(again.expose_secret(), first.expose_secret());
    let reveal = store.reveal(first.expose_secret()).await.unwrap().unwrap();
    assert_eq!(
        (reveal.topup_id, reveal.expires_at, reveal.tries),
        (id(1), at(9_000), 0),
        "it lasts as long again"
    );

    let stored = database.column("SELECT token_hash FROM reveals").await;
    assert_eq!(stored.len(), 2);
    assert!(!stored.contains(&first.expose_secret().to_owned()));
    assert_eq!(store.reveal(&stored[0]).await.unwrap(), None, "the stored hash opens no link");

    // The key is changed between two attempts.
    let new = CardCipher::new(&CardCipher::generate_key()).unwrap();
    let with_previous = new.clone().with_previous(&ENCRYPTION_KEY.into()).unwrap();
    let store = database.store_with(with_previous).await;
    assert_eq!(link(&store, 1).await.expose_secret(), first.expose_secret());
    assert_eq!(store.links_of_previous_keys().await.unwrap(), 2);
    mark_sent(&store, &id(1), at(70)).await;
    assert_eq!(store.links_of_previous_keys().await.unwrap(), 1, "a sent event needs no link");
    let alone = database.store_with(new).await;
    assert!(alone.reveal(first.expose_secret()).await.unwrap().is_some(), "a link opens with any key");
}

async fn one_of_many_concurrent_correct_tries_shows_the_card(database: &TestDatabase) {
    let stores = [database.store().await, database.store().await];
    fulfill(&stores[0], &id(1), at(0)).await;
    let token = link(&stores[0], 1).await;
    let tries = (0..12).map(|n| stores[n % 2].try_reveal(token.expose_secret(), true, 100, at(20)));
    let outcomes: Vec<_> = join_all(tries).await.into_iter().map(Result::unwrap).collect();
    let shown = outcomes.iter().filter(|outcome| **outcome == RevealOutcome::Shown).count();
    let before = outcomes.iter().filter(|outcome| **outcome == RevealOutcome::AlreadyShown).count();
    assert_eq!((shown, before), (1, 11), "{outcomes:?}");
    let reveal = stores[1].reveal(token.expose_secret()).await.unwrap().unwrap();
    assert_eq!((reveal.revealed_at, reveal.tries), (Some(at(20)), 1));
    assert_eq!(results(&stores[0], 1).await.len(), 12, "every try is in the history");
}

async fn wrong_tries_use_up_a_link(database: &TestDatabase) {
    use RevealOutcome::{AlreadyShown, Expired, Shown, Spent, Unknown, Wrong};

    let store = database.store().await;
    for number in 1..=3 {
        fulfill(&store, &id(number), at(0)).await;
    }
    let (spent, shown, late) = (link(&store, 1).await, link(&store, 2).await, link(&store, 3).await);
    for (token, right, seconds, expected) in [
        (&spent, false, 20, Wrong { left: 2 }),
        (&spent, false, 20, Wrong { left: 1 }),
        (&spent, false, 20, Wrong { left: 0 }),
        (&spent, false, 20, Spent),
        (&spent, true, 20, Spent),
        (&shown, false, 20, Wrong { left: 2 }),
        (&shown, true, 999, Shown),
        (&shown, true, 999, AlreadyShown),
        (&shown, false, 2_000, AlreadyShown),
        (&late, true, 1_000, Expired),
        (&"0".repeat(32).into(), true, 20, Unknown),
        (&String::new().into(), true, 20, Unknown),
    ] {
        let token: &SecretString = token;
        let outcome = store.try_reveal(token.expose_secret(), right, TRIES, at(seconds)).await.unwrap();
        assert_eq!(outcome, expected);
    }
    let spent: Vec<String> = results(&store, 1).await.into_iter().map(|(_, result)| result).collect();
    assert_eq!(spent, ["wrong", "wrong", "wrong", "spent", "spent"]);
    let shown = results(&store, 2).await;
    let words = ["wrong", "shown", "already-shown", "already-shown"];
    assert_eq!(shown.iter().map(|(_, result)| result).collect::<Vec<_>>(), words.iter().collect::<Vec<_>>());
    assert_eq!(results(&store, 3).await, [(0, "expired".to_owned())]);
}
