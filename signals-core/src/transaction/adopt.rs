//! Takes over a transaction that the program has begun with sqlx.

#[cfg(feature = "postgres")]
use sqlx::Postgres;
#[cfg(feature = "sqlite")]
use sqlx::Sqlite;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::lease::{AnyLease, Lease};
use crate::database::state::Frame;
use crate::transaction::Transaction;

impl Transaction<'static> {
    fn adopt(lease: AnyLease, kind: DatabaseKind) -> Self {
        let mut conn = Conn::adopted(lease);
        // A restart would lose what the program has written in it.
        let frame = Frame { used: true, sqlx_depth: 1, adopted: Some(kind), ..Frame::default() };
        conn.state.frames.push(frame);
        // The program may have ended it with raw SQL.
        conn.set_unverified();
        Self { conn, depth: 1, open: true, is_releasing: false, shares_commit: false }
    }
}

/// Adopts a transaction that was begun with sqlx. From here on, its end is observed: models with `on_commit` receivers can be saved in
/// it, and [`commit`](Transaction::commit) runs them. sqlx's connection is available through [`Conn::sqlite`].
///
/// The transaction comes from a pool (`pool.begin()`), so that the library can finish a commit whose future is dropped.
///
/// Its first write through the library takes the write lock, unless SQL has taken it before. It waits for the lock at most as long as
/// SQLite's busy timeout, and is the next in the queue of the writers. From then on, other writers of the library wait for the end of the
/// transaction, as for one that [`Db::begin`](crate::Db::begin) has begun. SQLite does not let a transaction wait that has read already: if
/// another writer has the lock then, the write fails with `database is locked`. `pool.begin_with("BEGIN IMMEDIATE")` avoids that.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[derive(Debug, Clone, Model)]
/// # struct City { id: Option<i64>, name: String }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// # let pool = db.sqlite().unwrap();
/// let mut legacy = pool.begin().await?;
/// sqlx::query("DELETE FROM city").execute(&mut *legacy).await?;
///
/// let mut tx = Transaction::from(legacy);
/// City { id: None, name: "Ulm".into() }.save(&mut tx).await?;
/// if let Some(conn) = tx.sqlite() {
///     sqlx::query("UPDATE city SET name = upper(name)").execute(conn).await?;
/// }
/// tx.commit().await?;
/// # assert_eq!(City::all(&db).await?[0].name, "ULM");
/// # Ok(()) }
/// ```
#[cfg(feature = "sqlite")]
impl From<sqlx::Transaction<'static, Sqlite>> for Transaction<'static> {
    fn from(tx: sqlx::Transaction<'static, Sqlite>) -> Self {
        Self::adopt(AnyLease::Sqlite(Lease::of_transaction(tx)), DatabaseKind::Sqlite)
    }
}

/// Adopts a transaction that was begun with sqlx. From here on, its end is observed: models with `on_commit` receivers can be saved in
/// it, and [`commit`](Transaction::commit) runs them. sqlx's connection is available through [`Conn::postgres`].
///
/// The transaction comes from a pool (`pool.begin()`), so that the library can finish a commit whose future is dropped.
#[cfg(feature = "postgres")]
impl From<sqlx::Transaction<'static, Postgres>> for Transaction<'static> {
    fn from(tx: sqlx::Transaction<'static, Postgres>) -> Self {
        Self::adopt(AnyLease::Postgres(Lease::of_transaction(tx)), DatabaseKind::Postgres)
    }
}
