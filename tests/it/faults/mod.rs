//! The fault suite of the queue: what a plain apalis-redis consumer gets wrong, and every fault we could think of,
//! each with an account at the end: all that was enqueued is done, scheduled or a dead letter, every step of it
//! settled once, and no job was in two hands at once.
//!
//! What a plain consumer (apalis-redis 1.0) gets wrong, and the tests that it fails:
//!
//! | # | what happens to it | tests |
//! |---|---|---|
//! | 1 | some 8,000 due jobs wedge the queue for good | `intake::twenty_thousand_due_jobs…`, `table::the_work_of_a_claim…` |
//! | 2 | busy workers are taken for dead, and jobs run twice | `table::busy_workers_run_no_job_twice…`, `handlers::a_handler_slower_than_the_lease…` |
//! | 3 | any error of Redis ends the worker | all of `server`, `service::a_minute_without_redis…`, `crash::redis_restarted…`, `crash::answers_of_redis…`, `crash::a_connection_that_goes_silent…` |
//! | 4 | one malformed job strands its batch and ends the worker | `intake::foreign_bytes_in_a_queue…` |
//! | 5 | a worker that is started again is refused; a stop removes the wrong member | `table::a_worker_that_is_killed_and_started_again…`, `shutdown::sigterm_under_load…` |
//! | 6 | retries are not counted and wait in a slot, where a crash loses them | `handlers::a_retry_is_counted…` |
//! | 7 | whole seconds; an idle worker looks once in a while | `table::an_idle_worker_starts_scheduled_jobs…`, `server::wake_ups_come_again…` |
//! | 8 | finished jobs stay for ever | `table::nothing_of_a_finished_job…`, `frozen` |
//! | 9 | the cost of a job grows with the backlog | `table::the_work_of_a_claim…` |
//! | 10 | duplicates run; statistics fail | `service::an_order_that_is_handed_over_again…`; the statistics are not used |
//! | 11 | one missing id ends the settling of its batch; a stop may hang | `table::a_batch_of_settlements…`, `table::a_stop_with_more_jobs…` |
//! | 12 | names that fail in Redis Cluster | `service::everything_works_on_a_redis_in_cluster_mode…` |
//!
//! Beyond the table: handlers that panic, hang, abort and exit (`handlers`), the same through the real program
//! (`service`), frozen workers (`frozen`), a worker that is cut off (`partition`), and clocks that disagree
//! (`clocks`, `deployment_time`, and `clock_steps` where the clock of Redis is set).

mod clock_steps;
mod clocks;
mod deployment_time;
mod frozen;
mod handlers;
mod partition;
mod server;
mod service;
mod table;
