#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Clone, Model)]
struct Order {
    id: Option<i64>,
    total: i64,
}

#[receiver(post_save, Order)]
async fn ship(saved: PostSave<'_, Order>) {}

fn main() {}
