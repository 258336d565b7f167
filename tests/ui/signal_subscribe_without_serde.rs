#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Signal)]
#[signal(subscribe = "shop.paid")]
struct Paid {
    order: i64,
}

fn main() {}
