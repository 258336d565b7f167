//! SQLite's own functions, on this thread: what the statements themselves take.
#[path = "../../common.rs"]
mod common;

use std::sync::Mutex;

use common::{Args, Writers, email, name};
use rusqlite::{Connection, params};

/// Threads that share one connection behind a mutex.
fn write(writers: &Writers) {
    let conn = Connection::open(writers.path()).unwrap();
    conn.execute_batch(&writers.pragmas()).unwrap();
    let conn = Mutex::new(conn);
    writers.on_threads(|i| {
        let conn = conn.lock().unwrap();
        let sql = "INSERT INTO users (name, email) VALUES (?1, ?2) RETURNING id";
        let mut insert = conn.prepare_cached(sql).unwrap();
        insert.query_row(params![name(i), email(i)], |row| row.get::<_, i64>(0)).is_ok()
    });
}

fn main() {
    if let Some(writers) = Writers::read() {
        return write(&writers);
    }
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
