#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Signal)]
struct Paid<T> {
    order: T,
}

fn main() {}
