#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[receiver(post_save, changed(email))]
async fn moved(_: PostSave<'_, dyn AnyModel>) {}

fn main() {}
