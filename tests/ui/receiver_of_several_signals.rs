#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User {
    id: Option<i64>,
}

#[receiver([post_save, post_delete], sender = User)]
fn log(saved: PostSave<'_, User>) {}

#[receiver(post_save, post_delete, sender = User)]
fn note(saved: PostSave<'_, User>) {}

fn main() {}
