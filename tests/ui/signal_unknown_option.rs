#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Signal)]
#[signal(publsh = "shop.paid")]
struct Paid {
    order: i64,
}

#[receiver(Paid)]
async fn ship(paid: &Paid) {}

async fn pay(db: &Db) -> Result<()> {
    Paid { order: 7 }.send(db).await
}

fn main() {}
