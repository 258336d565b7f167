#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Clone, Signal)]
struct OrderPaid {
    order: i64,
}

#[receiver(OrderPaid, on_commit, once_per_transaction)]
async fn ship(_: &OrderPaid) {}

fn main() {}
