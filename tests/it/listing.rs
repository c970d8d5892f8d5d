//! What the list of orders tells where something of it, or of what is stored, cannot be used.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{ListCard, RequestKind, Script, SimulatorSettings};

use crate::support::redis::TestRedis;
use crate::support::{Bed, until};

#[tokio::test]
async fn a_stored_row_that_cannot_be_read_keeps_the_list_from_telling_of_no_other_order() {
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
    let asked = bed.simulator.requests(RequestKind::CheckId);
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    let asked = bed.simulator.requests(RequestKind::CheckId) - asked;
    assert!(asked < 100, "{asked} of 120 orders were asked for: the list told of few");
    until("the row is told of", async || {
        let log = worker.log();
        let told =
            log.lines().any(|line| line.contains("a listed order is left out") && line.contains(&garbled));
        told.then_some(())
    })
    .await;
}
