use super::*;

const SHOP: &str = "https://shop.example";

fn circuits(slots: usize, spare: usize) -> Arc<Circuits> {
    Circuits::new(Slots::new(slots, spare), |wait| wait)
}

fn enter(circuits: &Arc<Circuits>, now: Instant) -> Result<Place, Outside> {
    circuits.enter(SHOP.to_owned(), now)
}

fn fail(circuits: &Arc<Circuits>, now: Instant) -> Option<Turned> {
    enter(circuits, now).unwrap().ended(false, now)
}

/// Has this endpoint answer at once.
fn answer(circuits: &Arc<Circuits>, name: &str, now: Instant) {
    assert_eq!(circuits.enter(name.to_owned(), now).unwrap().ended(true, now), None);
}

/// Every place that there is for this endpoint.
fn fill(circuits: &Arc<Circuits>, name: &str, now: Instant) -> Vec<Place> {
    std::iter::from_fn(|| circuits.enter(name.to_owned(), now).ok()).collect()
}

#[tokio::test]
async fn endpoints_that_answer_share_all_slots_and_leave_one_to_the_next() {
    let now = Instant::now();
    for (slots, shares) in [(1, vec![1]), (2, vec![1, 1]), (3, vec![1, 1, 1]), (64, vec![32, 16, 8, 4])] {
        let circuits = circuits(slots, 0);
        let names: Vec<String> = (0..shares.len()).map(|n| format!("https://{n}.example")).collect();
        for name in &names {
            answer(&circuits, name, now);
        }
        let mut places: Vec<Vec<Place>> = names.iter().map(|name| fill(&circuits, name, now)).collect();
        assert_eq!(places.iter().map(Vec::len).collect::<Vec<_>>(), shares, "{slots} slots");
        assert!(matches!(circuits.enter(names[0].clone(), now), Err(Outside::Busy(_))), "{slots} slots");
        // A handler that panics gives its place back all the same.
        places[0].clear();
        assert!(circuits.enter(names[0].clone(), now).is_ok());
    }
}

#[tokio::test]
async fn endpoints_that_are_not_trusted_have_half_of_the_slots_together() {
    let (circuits, now) = (circuits(64, 0), Instant::now());
    let well = "https://well.example";
    answer(&circuits, well, now);
    // One with many events leaves room for others of its kind.
    let many = fill(&circuits, "https://many.example", now);
    assert_eq!(many.len(), 16);
    let each: Vec<_> =
        (0..300).filter_map(|n| circuits.enter(format!("https://{n}.example"), now).ok()).collect();
    assert_eq!(many.len() + each.len(), 32);
    assert_eq!(fill(&circuits, well, now).len(), 16, "of the other half one leaves as much as it takes");
}

#[tokio::test]
async fn an_endpoint_is_trusted_until_an_attempt_fails_or_takes_long() {
    let (circuits, now) = (circuits(8, 0), Instant::now());
    let trusted = || circuits.state().endpoints.get(SHOP).is_some_and(|endpoint| endpoint.trusted);
    assert!(!trusted());
    answer(&circuits, SHOP, now);
    assert!(trusted());
    assert_eq!(fail(&circuits, now), None);
    assert!(!trusted());
    answer(&circuits, SHOP, now);
    let (mut slow, other) = (enter(&circuits, now).unwrap(), enter(&circuits, now).unwrap());
    slow.takes_long();
    assert!(!trusted(), "while it runs");
    assert_eq!(circuits.state().doubtful, 2, "its other attempt is counted with it");
    assert_eq!(slow.ended(true, now), None);
    assert!(!trusted(), "an answer that came late");
    assert_eq!(other.ended(true, now), None);
    assert!(trusted());
    let state = circuits.state();
    assert_eq!((state.placed, state.doubtful), (0, 0));
}

#[tokio::test]
async fn attempts_that_take_long_are_lent_spare_slots_and_fill_no_others() {
    let (circuits, now) = (circuits(4, 3), Instant::now());
    let attempt = async |n: u32| {
        let mut place = circuits.enter(format!("https://{n}.example"), Instant::now()).ok()?;
        place.watch(std::future::pending::<()>()).await;
        Some(())
    };
    let counts = || {
        let state = circuits.state();
        (state.placed, state.doubtful)
    };
    let lent = || circuits.state().endpoints.values().map(|endpoint| endpoint.lent).sum::<usize>();
    let mut hanging = Box::pin(async {
        tokio::join!(attempt(1), attempt(2));
    });
    tokio::select! {
        () = hanging.as_mut() => panic!("they hang"),
        () = async {
            while lent() < 2 {
                sleep(Duration::from_millis(10)).await;
            }
        } => {}
    }
    // Of three spare slots there is one left.
    assert_eq!(counts(), (0, 0));
    let mut places = fill(&circuits, "https://3.example", now);
    places.extend(fill(&circuits, "https://4.example", now));
    assert_eq!(places.len(), 2, "half of the slots");
    places.iter_mut().for_each(Place::takes_long);
    assert_eq!(counts(), (1, 1), "for one there was no spare slot");
    drop(places);
    drop(hanging);
    assert_eq!(counts(), (0, 0));
    assert!(circuits.state().endpoints.is_empty(), "nothing is remembered of what never answered");
}

#[tokio::test]
async fn an_endpoint_has_half_of_the_slots_the_lent_ones_included() {
    let (circuits, now) = (circuits(8, 100), Instant::now());
    let mut places = Vec::new();
    while let Ok(mut place) = enter(&circuits, now) {
        place.takes_long();
        places.push(place);
    }
    assert_eq!(places.len(), 4);
}

#[tokio::test]
async fn five_failures_in_a_row_open_it_and_one_goes_first_after_the_pause() {
    let (circuits, now) = (circuits(64, 0), Instant::now());
    for turned in [None, None, None, None, Some(Turned::Opened)] {
        assert_eq!(fail(&circuits, now), turned);
    }
    let soon = now + Duration::from_secs(10);
    assert_eq!(enter(&circuits, soon).err(), Some(Outside::Open(Duration::from_secs(20))));
    let later = now + OPEN;
    let first = enter(&circuits, later).unwrap();
    assert_eq!(enter(&circuits, later).err(), Some(Outside::Open(FIRST_TRIES)));
    assert_eq!(first.ended(false, later), None, "it stays open");
    assert_eq!(enter(&circuits, later).err(), Some(Outside::Open(OPEN)));
    let first = enter(&circuits, later + OPEN).unwrap();
    assert_eq!(first.ended(true, later + OPEN), Some(Turned::Closed));
    let _two = (enter(&circuits, later + OPEN).unwrap(), enter(&circuits, later + OPEN).unwrap());
}

#[tokio::test]
async fn those_that_find_no_place_come_back_one_after_another_at_the_pace_of_the_endpoint() {
    let (circuits, now) = (circuits(20, 0), Instant::now());
    answer(&circuits, SHOP, now);
    // An hour without events says nothing about its pace.
    let now = now + Duration::from_hours(1);
    let _places: Vec<_> = fill(&circuits, SHOP, now);
    let back = |now| match enter(&circuits, now) {
        Err(Outside::Busy(wait)) => wait.as_millis(),
        other => panic!("{other:?}"),
    };
    assert_eq!([back(now), back(now), back(now)], [10, 15, 20], "behind the first that found none");
    assert_eq!(back(now + Duration::from_millis(10)), 15, "behind the four");
    let second = now + Duration::from_secs(1);
    assert_eq!(back(second), 100, "no place came free for a second");
    assert_eq!(back(second), 200, "one after another");
    for _ in 0..1_000 {
        assert!(back(second) <= LONGEST_WAIT.as_millis());
    }
}

#[tokio::test]
async fn an_answer_in_between_begins_the_count_anew() {
    let (circuits, now) = (circuits(64, 0), Instant::now());
    for _ in 0..3 {
        for _ in 0..FAILURES - 1 {
            assert_eq!(fail(&circuits, now), None);
        }
        answer(&circuits, SHOP, now);
    }
}
