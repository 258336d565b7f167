//! `Insert` of a struct without the key, and `update_all_fields`, on ormlite's (sqlx's) pool.
#[path = "../../common.rs"]
mod common;

use common::{Args, email, name};
use ormlite::model::*;
use ormlite::sqlite::SqlitePool;

#[derive(Model, Debug)]
#[ormlite(table = "users", insert = "NewUser")]
struct User {
    #[ormlite(primary_key)]
    id: i64,
    name: String,
    email: String,
}

#[tokio::main]
async fn main() {
    let args = Args::read();
    let pool = SqlitePool::connect(&args.url).await.unwrap();
    measure!(args, "insert", false, |i| {
        let user = NewUser { name: name(i), email: email(i) };
        user.insert(&pool).await.unwrap()
    });
    let mut user = NewUser { name: name(0), email: email(0) }.insert(&pool).await.unwrap();
    measure!(args, "update", false, |i| {
        user.name = name(i);
        user.email = email(i);
        user = user.update_all_fields(&pool).await.unwrap()
    });
}
