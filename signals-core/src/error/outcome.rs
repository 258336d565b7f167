//! What receivers and callbacks return: nothing, or a `Result`.

use super::BoxError;

/// What a receiver returns: nothing, or `Result<(), E>` where `E` can be boxed as an error.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[tokio::main] async fn main() -> Result<()> {
/// # let db = Db::connect("sqlite::memory:").await?;
/// let mut tx = db.begin().await?;
/// tx.on_commit(async { println!("nothing can fail here") });
/// tx.on_commit(async { std::fs::create_dir_all("/tmp/reports") });
/// tx.on_commit(async { Err("the text of an error") });
/// # tx.rollback().await?;
/// # Ok(()) }
/// ```
#[diagnostic::on_unimplemented(
    message = "a receiver cannot return `{Self}`",
    label = "expected nothing or `Result<(), E>`",
    note = "a receiver or callback returns nothing, or `Result<(), E>` with an `E: Into<Box<dyn Error + Send + Sync>>`: \
            an error type, a string, or `Box<dyn Error + Send + Sync>`, but no `Box<dyn Error>` without `Send + Sync`"
)]
pub trait Outcome {
    #[doc(hidden)]
    fn into_result(self) -> Result<(), BoxError>;
}

#[diagnostic::do_not_recommend]
impl Outcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// The type `!`, which cannot be named in stable Rust otherwise.
type Never = <fn() -> ! as Returns>::Output;

#[doc(hidden)]
#[allow(missing_docs, unreachable_pub)]
pub trait Returns {
    type Output;
}

impl<T> Returns for fn() -> T {
    type Output = T;
}

/// In edition 2024, `async { todo!() }` has the output `!`.
#[diagnostic::do_not_recommend]
impl Outcome for Never {
    fn into_result(self) -> Result<(), BoxError> {
        self
    }
}
