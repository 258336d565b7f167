#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Signal)]
struct Paid {
    order: i64,
}

#[receiver(Paid, durable(at_least_once))]
async fn welcome(_: &Paid) {}

fn main() {}
