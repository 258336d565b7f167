//! The bound of the closure that `Db::transaction` takes.

use crate::error::Result;
use crate::transaction::Transaction;

/// The closure that [`Db::transaction`](crate::Db::transaction) runs: an async closure or an `async fn` that takes the transaction
/// and returns a `Result<T>`.
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
pub trait TransactionClosure<T>: AsyncFnOnce(&mut Transaction<'_>) -> Result<T> {}

#[diagnostic::do_not_recommend]
impl<T, F: AsyncFnOnce(&mut Transaction<'_>) -> Result<T>> TransactionClosure<T> for F {}
