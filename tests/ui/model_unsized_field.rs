#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct Text {
    id: Option<i64>,
    name: str,
}

#[derive(Model)]
struct Bytes {
    id: Option<i64>,
    data: [u8],
}

#[derive(Model)]
struct Object {
    id: Option<i64>,
    value: dyn std::fmt::Debug,
}

fn main() {}
