//! The fault suite of the queue. At the end of a test every enqueued job is done, scheduled or a dead letter,
//! each of its steps was settled once, and no two workers ran a job at once.
//!
//! What a plain consumer (apalis-redis 1.0) gets wrong, and the tests that it fails:
//!
//! | # | fault | tests |
//! |---|---|---|
//! | 1 | about 8,000 due jobs block the queue for good | `intake::twenty_thousand_due_jobs…`, `table::the_work_of_a_claim…` |
//! | 2 | busy workers are presumed dead, and jobs run twice | `table::busy_workers_run_no_job_twice…`, `handlers::a_handler_slower_than_the_lease…` |
//! | 3 | any error of Redis ends the worker | all of `server`, `service::a_minute_without_redis…`, `crash::a_restart_of_redis…`, `crash::lost_answers_of_redis…`, `crash::a_silent_connection…` |
//! | 4 | one malformed job strands its batch and ends the worker | `intake::foreign_bytes_in_a_queue…` |
//! | 5 | a restarted worker is refused; a stop removes the wrong member | `table::a_worker_restarted_after_a_kill…`, `shutdown::sigterm_under_load…` |
//! | 6 | retries are not counted and wait in a slot, where a crash loses them | `handlers::a_retry_is_counted…` |
//! | 7 | due times are whole seconds, and an idle worker checks only now and then | `table::an_idle_worker_starts_scheduled_jobs…`, `server::wake_ups_work_again…` |
//! | 8 | finished jobs are never deleted | `table::finished_jobs_leave_no_keys…`, `frozen` |
//! | 9 | the cost of a job grows with the backlog | `table::the_work_of_a_claim…` |
//! | 10 | duplicates run, and statistics fail | `service::an_order_that_is_handed_over_again…`; the statistics are not used |
//! | 11 | one missing id aborts the settlement of its batch, and a stop may hang | `table::a_batch_of_settlements…`, `table::a_stop_with_more_jobs…` |
//! | 12 | key names fail in Redis Cluster | `service::everything_works_on_a_redis_in_cluster_mode…` |
//!
//! Beyond the table: handlers that panic, hang, abort and exit (`handlers`), the same through the real
//! program (`service`), frozen workers (`frozen`), a worker that is cut off (`partition`), and clocks that
//! disagree (`clocks`, `deployment_time`, and `clock_steps`, in which the clock of Redis is set).

mod clock_steps;
mod clocks;
mod deployment_time;
mod frozen;
mod handlers;
mod partition;
mod server;
mod service;
mod table;
