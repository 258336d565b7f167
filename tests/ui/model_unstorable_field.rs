#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

struct Money(i64);

#[derive(Model)]
struct Account {
    id: Option<i64>,
    balance: Money,
}

async fn save(mut account: Account, db: Db) -> Result<()> {
    account.save(&db).await?;
    Ok(())
}

fn main() {}
