#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[receiver(post_save, sender = User)]
struct Welcome;

fn main() {}
