#![allow(dead_code)]
use sqlx_signals::prelude::*;

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct CurrentUser(i64);

fn of_request(db: &Db) -> Db {
    db.carry(CurrentUser(7))
}

fn main() {}
