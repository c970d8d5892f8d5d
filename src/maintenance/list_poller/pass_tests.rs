//! Tests of passes: readings of the provider's list in search of waiting orders. The lists are made up.

use topup_jobs::{ProviderOrder, TopupStatus};

use super::*;
use crate::provider::ListedOrder;

/// Time 0 of the tests, in seconds since 1970.
const START: i64 = 1_750_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(START + seconds, 0).unwrap()
}

/// An id that contains this creation time.
fn id(seconds: i64, number: usize) -> TopupId {
    format!("{:08x}{number:016x}", START + seconds).parse().unwrap()
}

fn line(seconds: &[i64]) -> Line {
    seconds.iter().enumerate().map(|(n, seconds)| (id(*seconds, n), at(*seconds))).collect()
}

/// Waiting orders whose ids contain no creation time.
fn silent_line(seconds: &[i64]) -> Line {
    let id = |n: usize| format!("{n:024x}").parse().unwrap();
    seconds.iter().enumerate().map(|(n, seconds)| (id(n), at(*seconds))).collect()
}

/// A list in pages of a hundred rows: one other order a second from `newest` to `oldest`, and the `waiting` orders.
fn pages(newest: i64, oldest: i64, waiting: &Line) -> Vec<OrderList> {
    let others = (oldest..=newest).map(|second| (id(second, 1_000_000), at(second)));
    let mut rows: Vec<_> = others.chain(waiting.iter().cloned()).collect();
    rows.sort_by_key(|(_, created_at)| std::cmp::Reverse(*created_at));
    let row = |(topup_id, created_at): &(TopupId, Timestamp)| ListedOrder {
        topup_id: topup_id.clone(),
        order: ProviderOrder::new(TopupStatus::Handling),
        created_at: Some(*created_at),
    };
    let chunks = rows.chunks(100);
    let last = u32::try_from(chunks.len()).unwrap();
    let page = |(rows, page): (&[_], u32)| OrderList {
        orders: rows.iter().map(row).collect(),
        next_page: (page < last).then_some(page + 1),
        unreadable: Vec::new(),
    };
    chunks.zip(1..).map(page).collect()
}

/// Reads pages until the pass ends. Returns their number and the last step.
fn read(pass: &mut Pass, pages: &[OrderList], wanted: &mut Wanted) -> (usize, Step) {
    for (n, page) in pages.iter().enumerate() {
        let step = pass.take_in(page, wanted);
        if step != Step::Next {
            return (n + 1, step);
        }
    }
    (pages.len(), Step::Next)
}

#[test]
fn a_window_reaches_from_the_oldest_to_the_newest_waiting_order() {
    let window = Window::of(&line(&[-100, -130]), 1.0).unwrap();
    assert_eq!((window.from, window.to), (at(-145), at(-95)));
    let window = Window::of(&silent_line(&[-100, -130]), 1.0).unwrap();
    assert_eq!(window.to, at(200), "the provider's clock may be ahead where ids contain no time");
    assert_eq!(Window::of(&Vec::new(), 1.0), None);
}

#[test]
fn a_pass_ends_once_all_waiting_orders_were_shown() {
    let line = line(&[0, -50, -95, -130]);
    let (mut pass, mut wanted) = (Pass::new(Window::of(&line, 1.0).unwrap()), Wanted::new(&line));
    assert_eq!(read(&mut pass, &pages(0, -1_000, &line), &mut wanted), (2, Step::Whole));
    assert_eq!(wanted.len(), 0);
    assert_eq!(pass.seen_from(Step::Whole), pass.window.from);
}

#[test]
fn a_pass_that_stops_early_claims_only_what_it_has_seen() {
    let mut line = line(&[0, -1, -2]);
    let shown = line.clone();
    // This waiting order is missing from the list.
    line.push((id(-5_000, 7), at(-5_000)));
    let window = Window { from: at(-5_015), to: at(5) };
    let (mut pass, mut wanted) = (Pass::new(window), Wanted::new(&line));
    let (read, last) = read(&mut pass, &pages(0, -10_000, &shown), &mut wanted);
    assert_eq!(last, Step::Left);
    let seen_from = pass.seen_from(last);
    let oldest_row = at(-i64::try_from(read).unwrap() * 100);
    assert!(seen_from >= oldest_row && seen_from <= oldest_row + AFTER * 3, "{seen_from} of {oldest_row}");
    assert_eq!(wanted.missed_since(seen_from, &window), 0, "the pass did not reach its place");

    // A pass that is interrupted after its first page has seen no orders older than the rows of that page.
    let mut pass = Pass::new(window);
    let step = pass.take_in(&pages(0, -10_000, &shown)[0], &mut Wanted::new(&line));
    assert_eq!(step, Step::Next);
    assert!(pass.seen_from(step) > at(-100), "{}", pass.seen_from(step));
}

#[test]
fn rows_newer_than_all_waiting_orders_do_not_end_a_pass_or_make_the_list_useless() {
    let line = silent_line(&[-450]);
    let window = Window { from: at(-465), to: at(0) };
    let (mut pass, mut wanted) = (Pass::new(window), Wanted::new(&line));
    assert_eq!(read(&mut pass, &pages(0, -2_000, &line), &mut wanted), (5, Step::Whole));
    assert_eq!(wanted.len(), 0);

    // The order would be after the tenth page. The pass ends before it, so the order does not count as missed.
    let line = silent_line(&[-5_000]);
    let window = Window { from: at(-5_015), to: at(0) };
    let (mut pass, mut wanted) = (Pass::new(window), Wanted::new(&line));
    let (_, last) = read(&mut pass, &pages(0, -9_000, &line), &mut wanted);
    assert_eq!((last, wanted.missed_since(pass.seen_from(last), &window)), (Step::Left, 0));
}

#[test]
fn an_order_that_the_list_lacks_at_its_place_counts_as_missed() {
    let line = line(&[0, -10]);
    let window = Window::of(&line, 1.0).unwrap();
    let (mut pass, mut wanted) = (Pass::new(window), Wanted::new(&line));
    let (read, last) = read(&mut pass, &pages(0, -2_000, &Vec::new()), &mut wanted);
    assert_eq!((read, last), (1, Step::Whole), "they cannot be on a later page");
    assert_eq!(wanted.missed_since(pass.seen_from(last), &window), 2);
}

#[test]
fn an_interrupted_pass_continues_with_the_next_page_of_its_window() {
    let mut all = line(&[0, -150, -250]);
    let window = Window::of(&all, 0.1).unwrap();
    let pages = pages(0, -1_000, &all);
    let (mut pass, mut wanted) = (Pass::new(window), Wanted::new(&all));
    assert_eq!(pass.take_in(&pages[0], &mut wanted), Step::Next);
    assert_eq!(pass.page, 2);
    // An order that arrives during the interruption is newer than the window, so no page of the window shows it.
    all.insert(0, (id(20, 9), at(20)));
    let mut wanted = Wanted::new(&all);
    assert_eq!(pass.take_in(&pages[1], &mut wanted), Step::Next);
    assert_eq!(pass.take_in(&pages[2], &mut wanted), Step::Whole, "the others are outside its window");
    assert_eq!(wanted.len(), 2, "those of the first page and of the other window");
}

#[test]
fn a_pass_over_an_unordered_list_has_seen_nothing_for_certain_before_its_end() {
    let line = line(&[0, -150]);
    let window = Window { from: at(-1_000), to: at(5) };
    let (mut pass, mut wanted) = (Pass::new(window), Wanted::new(&line));
    let mut oldest_first = pages(0, -1_000, &Vec::new())[0].clone();
    oldest_first.orders.reverse();
    let step = pass.take_in(&oldest_first, &mut wanted);
    assert_eq!((step, pass.seen_from(step)), (Step::Next, window.to));
}

#[test]
fn a_lone_old_order_is_not_worth_the_pages_to_it() {
    let reached = |seconds, density| reach(&line(seconds), density).timestamp() - START;
    assert_eq!(reached(&[100, 98, 95, 60], 1.0), 60);
    assert_eq!(reached(&[100, 98, 95, -300], 1.0), 95);
    assert_eq!(reached(&[100, 98, 95, -300], 0.0), -300, "nothing is known of the list yet");
    assert_eq!(reached(&[100, 98, 95, -900], 0.0), 95, "nor is it worth everything");
    let crowd = [100, 98, 95, -300, -301, -302, -303, -304, -305, -306, -307];
    assert_eq!(reached(&crowd, 1.0), -307, "eight are worth 400 rows");
    let and_one = [crowd.as_slice(), &[-900]].concat();
    assert_eq!(reached(&and_one, 1.0), -307, "one more is not worth 600");
    assert_eq!(reached(&[100, 98, 95, -900, -901], 0.0), -901, "two are worth twenty minutes");
}
