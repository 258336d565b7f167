#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
struct User {
    id: Option<i64>,
    email: String,
}

mod models {
    #[derive(sqlx_signals::Model)]
    pub struct City {
        id: Option<i64>,
    }
}

#[receiver(post_save, models::City)]
fn log(saved: PostSave<'_, models::City>) {}

fn main() {}
