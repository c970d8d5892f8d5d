//! List polling beside a stored order that cannot be read.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{ListCard, RequestKind, Script, SimulatorSettings};

use crate::support::redis::TestRedis;
use crate::support::{Bed, until};

#[tokio::test]
async fn a_stored_order_that_cannot_be_read_keeps_no_other_order_from_being_found_in_the_list() {
    let settings =
        SimulatorSettings { rate_limit: 120, list_card: ListCard::Complete, ..SimulatorSettings::default() };
    let mut bed = Bed::on(TestRedis::start().await, 10.0, settings).await;
    bed.set("ONECLICKDZ_RATE_LIMIT", "120");
    bed.set("ONECLICKDZ_MAX_IN_FLIGHT", "2");
    let mut orders: Vec<String> = (0..120).map(|_| bed.order(Script::handling_forever())).collect();
    let worker = bed.worker().await;
    bed.enqueue(&orders).await;
    let garbled = orders.swap_remove(60);
    bed.stored(&orders, OrderStatus::Handling).await;
    bed.database("UPDATE internet_orders SET status = 'HALF-DONE' WHERE topup_id = ?", &garbled).await;
    for id in orders.iter().chain([&garbled]) {
        bed.simulator.set_script(id, Script::fulfilled_after(Duration::ZERO));
    }
    let checks = bed.simulator.requests(RequestKind::CheckId);
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    let checks = bed.simulator.requests(RequestKind::CheckId) - checks;
    assert!(checks < 100, "{checks} of 120 orders were checked: the list showed few");
    until("the unreadable order is logged", async || {
        let log = worker.log();
        let seen =
            log.lines().any(|line| line.contains("a listed order is skipped") && line.contains(&garbled));
        seen.then_some(())
    })
    .await;
}
