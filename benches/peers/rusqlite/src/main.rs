//! SQLite's own functions, on this thread: what the statements themselves take.
#[path = "../../common.rs"]
mod common;

use common::{Args, email, name};
use rusqlite::{Connection, params};

fn main() {
    let args = Args::read();
    let conn = Connection::open(args.path()).unwrap();
    let mut insert = conn.prepare("INSERT INTO users (name, email) VALUES (?1, ?2) RETURNING id").unwrap();
    measure!(args, "insert", false, |i| {
        let _: i64 = insert.query_row(params![name(i), email(i)], |row| row.get(0)).unwrap();
    });
    let id: i64 = insert.query_row(params![name(0), email(0)], |row| row.get(0)).unwrap();
    let mut update = conn.prepare("UPDATE users SET name = ?1, email = ?2 WHERE id = ?3").unwrap();
    measure!(args, "update", false, |i| {
        assert_eq!(update.execute(params![name(i), email(i), id]).unwrap(), 1)
    });
}
