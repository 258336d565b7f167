#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Model)]
struct User<T> {
    id: Option<i64>,
    name: T,
}

#[receiver(post_save, sender = User<String>)]
async fn welcome(_: PostSave<'_, User<String>>) {}

async fn save(db: &Db, user: &mut User<String>) -> Result<Option<User<String>>> {
    user.save_fields(db, &[User::NAME]).await?;
    User::query("name = $1").bind("Ann").fetch_optional(db).await
}

fn main() {}
