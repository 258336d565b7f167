#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Signal)]
struct Paid<T> {
    order: T,
}

async fn pay(db: &Db) -> Result<()> {
    Paid { order: 7 }.send(db).await
}

fn main() {}
