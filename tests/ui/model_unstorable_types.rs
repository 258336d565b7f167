#![allow(dead_code, unused_variables, non_camel_case_types)]
use std::collections::HashMap;

use sqlx_signals::prelude::*;

#[derive(Debug, Clone)]
struct Money(i64);

#[derive(Debug, Clone)]
enum Color {
    Red,
}

type Twice = Option<Option<i64>>;

#[derive(Debug, Clone, Model)]
struct Account {
    id: Option<i64>,
    hits: u64,
    size: usize,
    maybe: Option<u64>,
    huge: u128,
    more: u64,
    tags: HashMap<String, i64>,
    list: Vec<(i64, String)>,
    balance: Money,
    color: Color,
    sign: char,
    name: &'static str,
    nested: Option<Option<String>>,
    twice: Twice,
    unix: std::time::SystemTime,
    #[model(generated)]
    wide: i128,
    #[model(json)]
    json: Money,
}

#[derive(Debug, Clone, Model)]
struct Counter {
    id: u64,
    n: Option<u64>,
}

/// Stored by one of the databases each.
#[derive(Debug, Clone, Model)]
struct InSqlite {
    id: u32,
}

#[derive(Debug, Clone, Model)]
struct InPostgres {
    id: i64,
    tags: Vec<String>,
}

async fn save(mut account: Account, mut counter: Counter, db: Db) -> Result<()> {
    account.save(&db).await?;
    counter.save(&db).await?;
    Counter::query("WHERE id = $1").bind(1).set(Counter::N, 7).update(&db).await?;
    Account::all(&db).await?;
    db.check().await?;
    Ok(())
}

#[receiver(post_save, sender = Account, on_commit)]
async fn heard(saved: PostSave<'_, Account>) {}

fn main() {}
