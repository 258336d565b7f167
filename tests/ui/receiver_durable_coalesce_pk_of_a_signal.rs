#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Signal, serde::Serialize, serde::Deserialize)]
struct Paid {
    order: i64,
}

#[receiver(Paid, durable(at_least_once, coalesce = pk))]
async fn ship(_: &Paid) {}

fn main() {}
