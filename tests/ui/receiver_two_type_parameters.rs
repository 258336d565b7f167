#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
struct User {
    id: Option<i64>,
    email: String,
}

#[derive(Debug, Clone, Model)]
struct Order {
    id: Option<i64>,
    total: i64,
}

#[receiver(post_save, sender = [User, Order])]
fn log<M: Model, const N: usize>(saved: PostSave<'_, M>) {}

fn main() {}
