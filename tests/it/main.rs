//! Integration tests: the built program against a real Redis, the simulator and a recording receiver.
#![cfg(test)]

mod bench;
mod budget;
mod crash;
mod doctor;
mod email;
mod faults;
mod gate;
mod help;
mod incidents;
mod intake;
mod line;
mod listing;
mod lost_redis;
mod metrics;
mod model;
mod operator;
mod order_store;
mod outcomes;
mod pace;
mod provider;
mod redis_kinds;
mod rekey;
mod restore;
mod retention;
mod reveal;
mod secrets;
mod set_up;
mod shutdown;
mod slow_store;
mod sms;
mod steps;
mod stores;
mod support;
mod undelivered;
mod webhook;
