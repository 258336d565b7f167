//! `Insert` of a struct without the key, and `update_all_fields`, on ormlite's (sqlx's) pool.
#[path = "../../common.rs"]
mod common;

use common::{Args, email, name};
use ormlite::model::*;

/// A model has one database, of which its derive is told: so there is a model for each, and the same lines use either.
macro_rules! on {
    ($database:literal, $pool:ty, $args:expr) => {{
        #[derive(Model, Debug)]
        #[ormlite(database = $database, table = "users", insert = "NewUser")]
        struct User {
            #[ormlite(primary_key)]
            id: i64,
            name: String,
            email: String,
        }

        let pool = <$pool>::connect(&$args.url).await.unwrap();
        measure!($args, "insert", false, |i| {
            let user = NewUser { name: name(i), email: email(i) };
            user.insert(&pool).await.unwrap()
        });
        let mut user = NewUser { name: name(0), email: email(0) }.insert(&pool).await.unwrap();
        measure!($args, "update", false, |i| {
            user.name = name(i);
            user.email = email(i);
            user = user.update_all_fields(&pool).await.unwrap()
        });
    }};
}

#[tokio::main]
async fn main() {
    let args = Args::read();
    if args.is_postgres() {
        on!("postgres", ormlite::postgres::PgPool, args);
    } else {
        on!("sqlite", ormlite::sqlite::SqlitePool, args);
    }
}
