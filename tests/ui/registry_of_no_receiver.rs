#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

struct welcome;

fn check() -> Result<()> {
    sqlx_signals::registry().require::<welcome>()
}

fn main() {}
