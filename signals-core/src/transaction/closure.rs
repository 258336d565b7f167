//! The bounds of the closures that run in a transaction.

use crate::error::{Error, Result};
use crate::transaction::Transaction;

/// The closure that [`Db::transaction`](crate::Db::transaction) runs: an async closure or an `async fn` that takes the transaction
/// and returns a `Result<T>`, or a `Result<T, E>` for [`Db::try_transaction`](crate::Db::try_transaction).
///
/// Write the closure as `async |tx| { … }`. The future of `|tx| async move { … }` cannot borrow `tx`, and the compiler reports
/// "implementation of `AsyncFnOnce` is not general enough".
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # async fn example(db: Db) -> Result<()> {
/// async fn import(tx: &mut Transaction<'_>) -> Result<u64> {
///     tx.execute("INSERT INTO city (name) VALUES ('Ulm')").await
/// }
///
/// db.transaction(import).await?;
/// db.transaction(async |tx| {
///     import(&mut *tx).await?;
///     import(tx).await
/// })
/// .await?;
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot run in a transaction",
    label = "expected `async |tx| {{ … }}`",
    note = "a transaction runs an async closure, `async |tx| {{ … }}`, that returns a `Result` with sqlx-signals' error"
)]
pub trait TransactionClosure<T, E = Error>:
    AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>
{
}

#[diagnostic::do_not_recommend]
impl<T, E, F: AsyncFnOnce(&mut Transaction<'_>) -> Result<T, E>> TransactionClosure<T, E> for F {}

/// The closure that [`Retry::transaction`](crate::Retry::transaction) runs: a [`TransactionClosure`] that is `Clone`, because each
/// attempt runs a clone.
///
/// A closure is `Clone` if everything that it captures is. References are, so the closure can use the variables around it. What an
/// attempt changes must be made in the closure, because an attempt that is rolled back must leave no trace: clone a row before you save
/// it.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[derive(Debug, Clone, Model)]
/// # struct City { id: Option<i64>, name: String }
/// async fn found(db: &Db, city: &City) -> Result<City> {
///     db.retry(3)
///         .transaction(async |tx| {
///             let mut city = city.clone();
///             city.save(tx).await?;
///             Ok(city)
///         })
///         .await
/// }
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
/// let ulm = City { id: None, name: "Ulm".into() };
/// let ulm = tokio::spawn(async move { found(&db, &ulm).await }).await.unwrap()?;
/// # assert!(ulm.id.is_some()); Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot run in a transaction several times",
    label = "expected a closure `async |tx| {{ … }}` that is `Clone`",
    note = "a closure is `Clone` if everything that it captures is; it cannot change a variable around it: clone the variable inside"
)]
pub trait RepeatableClosure<T, E = Error>: TransactionClosure<T, E> + Clone {}

#[diagnostic::do_not_recommend]
impl<T, E, F: TransactionClosure<T, E> + Clone> RepeatableClosure<T, E> for F {}
