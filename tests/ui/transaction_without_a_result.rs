#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

async fn sign_up(db: Db) {
    db.transaction(|tx| { let _ = tx; }).await;
}

fn main() {}
