#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

fn later(tx: &mut Transaction<'_>) {
    tx.on_commit(async { Ok::<(), Box<dyn std::error::Error>>(()) });
}

fn main() {}
