//! diesel on one connection, on Postgres through libpq, without a runtime: `insert_into(…).get_result` of the key, and `save_changes`'s UPDATE.
#[path = "../../common.rs"]
mod common;

use common::{Args, email, name};
use diesel::prelude::*;

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

#[derive(AsChangeset, Identifiable)]
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
            let _: i64 = diesel::insert_into(users::table).values(&user).returning(users::id).get_result(&mut $conn).unwrap();
        });
        let bob = NewUser { name: name(0), email: email(0) };
        let id = diesel::insert_into(users::table).values(&bob).returning(users::id).get_result(&mut $conn).unwrap();
        let mut user = User { id, name: name(0), email: email(0) };
        measure!($args, "update", false, |i| {
            user.name = name(i);
            user.email = email(i);
            assert_eq!(diesel::update(&user).set(&user).execute(&mut $conn).unwrap(), 1)
        });
    }};
}

fn main() {
    let args = Args::read();
    if args.is_postgres() {
        let mut conn = PgConnection::establish(&args.url).unwrap();
        on!(args, conn);
    } else {
        let mut conn = SqliteConnection::establish(args.path()).unwrap();
        on!(args, conn);
    }
}
