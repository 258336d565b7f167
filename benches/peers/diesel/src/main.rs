//! diesel on one connection, on Postgres through libpq, without a runtime: `insert_into(…).get_result` of the key, and `save_changes`'s UPDATE.
#[path = "../../common.rs"]
mod common;

use common::{Args, Writers, email, name};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};

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

/// Sets the pragmas of each connection of a pool.
#[derive(Debug)]
struct Pragmas(String);

impl<C: SimpleConnection> CustomizeConnection<C, diesel::r2d2::Error> for Pragmas {
    fn on_acquire(&self, conn: &mut C) -> Result<(), diesel::r2d2::Error> {
        conn.batch_execute(&self.0).map_err(diesel::r2d2::Error::QueryError)
    }
}

/// Threads that share a pool of r2d2.
macro_rules! write {
    ($writers:expr, $Conn:ty, $url:expr, $setup:expr) => {{
        let pool = Pool::builder().max_size(10).connection_customizer(Box::new(Pragmas($setup)));
        let pool = pool.build(ConnectionManager::<$Conn>::new($url)).unwrap();
        $writers.on_threads(|i| {
            let user = NewUser { name: name(i), email: email(i) };
            let insert = diesel::insert_into(users::table).values(&user).returning(users::id);
            let stored = pool.get().map(|mut conn| insert.get_result::<i64>(&mut conn).is_ok());
            stored.unwrap_or_default()
        });
    }};
}

fn main() {
    if let Some(writers) = Writers::read() {
        return match writers.is_postgres() {
            true => write!(writers, PgConnection, &writers.url, "SELECT 1".to_owned()),
            false => write!(writers, SqliteConnection, writers.path(), writers.pragmas()),
        };
    }
    let args = Args::read();
    if args.is_postgres() {
        let mut conn = PgConnection::establish(&args.url).unwrap();
        on!(args, conn);
    } else {
        let mut conn = SqliteConnection::establish(args.path()).unwrap();
        on!(args, conn);
    }
}
