#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User<T> {
    id: Option<i64>,
    name: T,
}

fn main() {}
