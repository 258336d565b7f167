#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
struct User {
    id: Option<i64>,
    email: String,
}

#[derive(Signal)]
struct Paid {
    order: i64,
}

#[receiver(Paid, sender = User, created)]
fn ship(paid: &Paid) {}

fn main() {}
