#![allow(dead_code, unused_variables, non_camel_case_types)]
use std::sync::Mutex;

use sqlx_signals::prelude::*;

/// Not `Clone`, not `Debug`, and no column.
struct Money(i64);

type Big = u64;

#[derive(Model)]
struct MoneyKey {
    id: Money,
}

#[derive(Model)]
struct LockKey {
    id: Option<Mutex<i64>>,
}

#[derive(Model)]
struct PairKey {
    id: (i64, i64),
}

#[derive(Model)]
struct UnitKey {
    id: (),
}

#[derive(Model)]
struct FunctionKey {
    id: fn(),
}

#[derive(Model)]
struct Root {
    id: Option<i64>,
}

#[derive(Model)]
struct OfAlias {
    id: Option<i64>,
    #[model(belongs_to = Root, on_delete = cascade)]
    root: Big,
}

#[derive(Model)]
struct OfReference {
    id: Option<i64>,
    #[model(belongs_to = Root, on_delete = restrict)]
    root: &'static i64,
}

#[derive(Model)]
struct OfPair {
    id: Option<i64>,
    #[model(belongs_to = Root, on_delete = set_null)]
    root: Option<(i64,)>,
}

#[derive(Model)]
struct Automatic {
    id: Option<i64>,
    #[model(generated)]
    money: Money,
    #[model(generated)]
    lock: Mutex<i64>,
    #[model(auto_now)]
    changed: &'static str,
    #[model(auto_now_add)]
    added: (i64,),
    #[model(auto_now)]
    other: Money,
    #[model(version)]
    version: (i64, i64),
}

#[derive(Model)]
struct Json {
    id: Option<i64>,
    #[model(json)]
    name: &'static str,
    #[model(json)]
    names: Vec<&'static str>,
    #[model(json)]
    function: fn(),
}

#[derive(Model)]
struct Plain {
    id: Option<i64>,
    unit: (),
    lock: Option<Mutex<i64>>,
    bytes: &'static [u8],
    reference: &'static mut i64,
    function: Option<fn(*const u8)>,
    names: Vec<&'static str>,
}

fn main() {}
