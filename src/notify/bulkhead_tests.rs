use super::*;

const SHOP: &str = "https://shop.example";

fn bulkhead(slots: usize, spare: usize) -> Arc<Bulkhead> {
    Bulkhead::new(Slots::new(slots, spare), |wait| wait)
}

fn try_acquire(bulkhead: &Arc<Bulkhead>, now: Instant) -> Result<EndpointSlot, Rejected> {
    bulkhead.try_acquire(SHOP.to_owned(), now)
}

fn fail(bulkhead: &Arc<Bulkhead>, now: Instant) -> Option<Transition> {
    try_acquire(bulkhead, now).unwrap().ended(false, now)
}

/// Runs one attempt that the endpoint answers at once.
fn answer(bulkhead: &Arc<Bulkhead>, name: &str, now: Instant) {
    assert_eq!(bulkhead.try_acquire(name.to_owned(), now).unwrap().ended(true, now), None);
}

/// Takes every slot that this endpoint can get.
fn fill(bulkhead: &Arc<Bulkhead>, name: &str, now: Instant) -> Vec<EndpointSlot> {
    std::iter::from_fn(|| bulkhead.try_acquire(name.to_owned(), now).ok()).collect()
}

#[tokio::test]
async fn trusted_endpoints_share_all_slots_and_leave_one_for_the_next() {
    let now = Instant::now();
    for (slots, shares) in [(1, vec![1]), (2, vec![1, 1]), (3, vec![1, 1, 1]), (64, vec![32, 16, 8, 4])] {
        let bulkhead = bulkhead(slots, 0);
        let names: Vec<String> = (0..shares.len()).map(|n| format!("https://{n}.example")).collect();
        for name in &names {
            answer(&bulkhead, name, now);
        }
        let mut held: Vec<Vec<EndpointSlot>> = names.iter().map(|name| fill(&bulkhead, name, now)).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), shares, "{slots} slots");
        assert!(
            matches!(bulkhead.try_acquire(names[0].clone(), now), Err(Rejected::Busy(_))),
            "{slots} slots"
        );
        // A dropped slot is free again. A panicking handler drops its slot.
        held[0].clear();
        assert!(bulkhead.try_acquire(names[0].clone(), now).is_ok());
    }
}

#[tokio::test]
async fn untrusted_endpoints_take_at_most_half_of_the_slots_together() {
    let (bulkhead, now) = (bulkhead(64, 0), Instant::now());
    let well = "https://well.example";
    answer(&bulkhead, well, now);
    // One busy untrusted endpoint leaves slots for other untrusted ones.
    let many = fill(&bulkhead, "https://many.example", now);
    assert_eq!(many.len(), 16);
    let each: Vec<_> =
        (0..300).filter_map(|n| bulkhead.try_acquire(format!("https://{n}.example"), now).ok()).collect();
    assert_eq!(many.len() + each.len(), 32);
    assert_eq!(fill(&bulkhead, well, now).len(), 16, "it takes no more than it leaves free");
}

#[tokio::test]
async fn an_endpoint_is_trusted_until_an_attempt_fails_or_takes_long() {
    let (bulkhead, now) = (bulkhead(8, 0), Instant::now());
    let trusted = || bulkhead.state().endpoints.get(SHOP).is_some_and(|endpoint| endpoint.trusted);
    assert!(!trusted());
    answer(&bulkhead, SHOP, now);
    assert!(trusted());
    assert_eq!(fail(&bulkhead, now), None);
    assert!(!trusted());
    answer(&bulkhead, SHOP, now);
    let (mut slow, other) = (try_acquire(&bulkhead, now).unwrap(), try_acquire(&bulkhead, now).unwrap());
    slow.takes_long();
    assert!(!trusted(), "a running attempt is slow");
    assert_eq!(bulkhead.state().untrusted, 2, "both attempts of the endpoint count as untrusted");
    assert_eq!(slow.ended(true, now), None);
    assert!(!trusted(), "the answer came late");
    assert_eq!(other.ended(true, now), None);
    assert!(trusted());
    let state = bulkhead.state();
    assert_eq!((state.taken, state.untrusted), (0, 0));
}

#[tokio::test]
async fn slow_attempts_move_to_spare_slots_while_there_are_any() {
    let (bulkhead, now) = (bulkhead(4, 3), Instant::now());
    let attempt = async |n: u32| {
        let mut slot = bulkhead.try_acquire(format!("https://{n}.example"), Instant::now()).ok()?;
        slot.watch(std::future::pending::<()>()).await;
        Some(())
    };
    let counts = || {
        let state = bulkhead.state();
        (state.taken, state.untrusted)
    };
    let lent = || bulkhead.state().endpoints.values().map(|endpoint| endpoint.lent).sum::<usize>();
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
    // Both attempts moved to spare slots, so they no longer count as taken or untrusted. One spare slot is left.
    assert_eq!(counts(), (0, 0));
    let mut held = fill(&bulkhead, "https://3.example", now);
    held.extend(fill(&bulkhead, "https://4.example", now));
    assert_eq!(held.len(), 2, "half of the slots");
    held.iter_mut().for_each(EndpointSlot::takes_long);
    assert_eq!(counts(), (1, 1), "one attempt found no spare slot");
    drop(held);
    drop(hanging);
    assert_eq!(counts(), (0, 0));
    assert!(bulkhead.state().endpoints.is_empty(), "endpoints that never answered are forgotten");
}

#[tokio::test]
async fn lent_slots_count_towards_the_limit_of_an_endpoint() {
    let (bulkhead, now) = (bulkhead(8, 100), Instant::now());
    let mut held = Vec::new();
    while let Ok(mut slot) = try_acquire(&bulkhead, now) {
        slot.takes_long();
        held.push(slot);
    }
    assert_eq!(held.len(), 4);
}

#[tokio::test]
async fn five_failures_open_the_breaker_and_one_probe_goes_first_afterwards() {
    let (bulkhead, now) = (bulkhead(64, 0), Instant::now());
    for turned in [None, None, None, None, Some(Transition::Opened)] {
        assert_eq!(fail(&bulkhead, now), turned);
    }
    let soon = now + Duration::from_secs(10);
    assert_eq!(try_acquire(&bulkhead, soon).err(), Some(Rejected::Open(Duration::from_secs(20))));
    let later = now + OPEN;
    let first = try_acquire(&bulkhead, later).unwrap();
    assert_eq!(try_acquire(&bulkhead, later).err(), Some(Rejected::Open(FIRST_TRIES)));
    assert_eq!(first.ended(false, later), None, "it stays open");
    assert_eq!(try_acquire(&bulkhead, later).err(), Some(Rejected::Open(OPEN)));
    let first = try_acquire(&bulkhead, later + OPEN).unwrap();
    assert_eq!(first.ended(true, later + OPEN), Some(Transition::Closed));
    let _two = (try_acquire(&bulkhead, later + OPEN).unwrap(), try_acquire(&bulkhead, later + OPEN).unwrap());
}

#[tokio::test]
async fn rejected_jobs_are_spread_at_the_pace_of_the_endpoint() {
    let (bulkhead, now) = (bulkhead(20, 0), Instant::now());
    answer(&bulkhead, SHOP, now);
    // In this hour no slot came free, because none was taken. The hour must not lengthen the waits.
    let now = now + Duration::from_hours(1);
    let _places: Vec<_> = fill(&bulkhead, SHOP, now);
    let back = |now| match try_acquire(&bulkhead, now) {
        Err(Rejected::Busy(wait)) => wait.as_millis(),
        other => panic!("{other:?}"),
    };
    assert_eq!([back(now), back(now), back(now)], [10, 15, 20], "the fill already rejected one");
    assert_eq!(back(now + Duration::from_millis(10)), 15, "after the four before");
    let second = now + Duration::from_secs(1);
    assert_eq!(back(second), 100, "no slot came free for a second");
    assert_eq!(back(second), 200, "one after another");
    for _ in 0..1_000 {
        assert!(back(second) <= MAX_WAIT.as_millis());
    }
}

#[tokio::test]
async fn an_answer_resets_the_count_of_failures() {
    let (bulkhead, now) = (bulkhead(64, 0), Instant::now());
    for _ in 0..3 {
        for _ in 0..FAILURES - 1 {
            assert_eq!(fail(&bulkhead, now), None);
        }
        answer(&bulkhead, SHOP, now);
    }
}

#[tokio::test]
async fn a_job_waits_a_moment_for_a_slot_at_a_trusted_endpoint_only() {
    let bulkhead = bulkhead(8, 0);
    answer(&bulkhead, SHOP, Instant::now());
    let mut held = fill(&bulkhead, SHOP, Instant::now());
    assert_eq!(held.len(), 4);
    let acquire = || {
        let bulkhead = Arc::clone(&bulkhead);
        tokio::spawn(async move { bulkhead.acquire(SHOP.to_owned()).await })
    };
    let (first, second) = (acquire(), acquire());
    tokio::task::yield_now().await;
    assert!(!first.is_finished() && !second.is_finished());
    assert_eq!(held.pop().unwrap().ended(true, Instant::now()), None);
    let acquired = first.await.unwrap().unwrap();
    assert!(matches!(second.await.unwrap(), Err(Rejected::Busy(_))), "no other slot came free");
    held.push(acquired);
    // An endpoint that does not answer loses the trust, and jobs for it return to their queue at once.
    assert_eq!(held.pop().unwrap().ended(false, Instant::now()), None);
    held.extend(fill(&bulkhead, SHOP, Instant::now()));
    assert!(bulkhead.trusted_but_full(SHOP).is_none());
    assert!(matches!(bulkhead.acquire(SHOP.to_owned()).await, Err(Rejected::Busy(_))));
}
