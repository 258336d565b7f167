#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

struct Paid {
    order: i64,
}

#[receiver(Paid, on_commit)]
async fn ship(paid: &Paid, db: Db) {}

fn main() {}
