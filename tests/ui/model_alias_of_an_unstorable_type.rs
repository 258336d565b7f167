#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

type Cents = u64;
type Discount = Option<usize>;

#[derive(Debug, Clone, Model)]
struct Bill {
    id: Option<i64>,
    total: Cents,
    tip: Option<Cents>,
    discount: Discount,
}

fn main() {}
