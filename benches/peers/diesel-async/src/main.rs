//! diesel-async on one connection: SQLite through `SyncConnectionWrapper`, Postgres natively.
#[path = "../../common.rs"]
mod common;

use common::{Args, email, name};
use diesel::prelude::*;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};

diesel::table! {
    users (id) {
        id -> BigInt,
        name -> Text,
        email -> Text,
    }
}

#[derive(Insertable)]
#[diesel(table_name = users)]
struct NewUser {
    name: String,
    email: String,
}

#[derive(Clone, AsChangeset, Identifiable)]
#[diesel(table_name = users)]
struct User {
    id: i64,
    name: String,
    email: String,
}

macro_rules! on {
    ($args:expr, $conn:expr) => {{
        measure!($args, "insert", false, |i| {
            let user = NewUser { name: name(i), email: email(i) };
            let query = diesel::insert_into(users::table).values(user).returning(users::id);
            let _: i64 = query.get_result(&mut $conn).await.unwrap();
        });
        let bob = NewUser { name: name(0), email: email(0) };
        let query = diesel::insert_into(users::table).values(bob).returning(users::id);
        let id: i64 = query.get_result(&mut $conn).await.unwrap();
        measure!($args, "update", false, |i| {
            let user = User { id, name: name(i), email: email(i) };
            let query = diesel::update(users::table.find(user.id)).set(user);
            assert_eq!(query.execute(&mut $conn).await.unwrap(), 1)
        });
    }};
}

#[tokio::main]
async fn main() {
    let args = Args::read();
    if args.is_postgres() {
        let mut conn = AsyncPgConnection::establish(&args.url).await.unwrap();
        on!(args, conn);
    } else {
        let mut conn = SyncConnectionWrapper::<SqliteConnection>::establish(args.path()).await.unwrap();
        on!(args, conn);
    }
}
