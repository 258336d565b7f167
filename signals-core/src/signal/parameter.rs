//! What a receiver takes after its event.

use std::fmt;
use std::marker::PhantomData;

#[cfg(feature = "postgres")]
use sqlx::PgConnection;
#[cfg(feature = "sqlite")]
use sqlx::SqliteConnection;

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::error::BoxError;
use crate::table::previous_row::PreviousRow;
use crate::task::info::Asks;

/// The phases of a signal as types, for [`Parameter`].
pub mod phase {
    use std::marker::PhantomData;

    /// At once, in the transaction.
    #[derive(Debug)]
    pub struct InTransaction<S>(PhantomData<fn() -> S>);
    /// After the outermost transaction has committed.
    #[derive(Debug)]
    pub struct OnCommit<S>(PhantomData<fn() -> S>);
    /// After the outermost transaction, or a savepoint around the write, was rolled back.
    #[derive(Debug)]
    pub struct OnRollback<S>(PhantomData<fn() -> S>);
}

/// What a receiver can take after its event, in the phase `P`.
#[diagnostic::on_unimplemented(
    message = "a receiver cannot take `{Self}` in the phase `{P}`",
    label = "not a parameter of this phase",
    note = "in the transaction, a receiver can take `&mut Conn<'_>` (or `&mut PgConnection`, `&mut SqliteConnection`)",
    note = "with `on_commit` or `on_rollback`, when the transaction is over, it can take `Db`",
    note = "in any phase it can take `State<T>`, for a `T: Clone` that was given by `Db::with`, and `Previous<'_, M>`"
)]
pub trait Parameter<'a, 'c, P>: Sized {
    /// What must be there for it before the receiver runs.
    #[doc(hidden)]
    const ASKS: Asks = Asks::Nothing;

    #[doc(hidden)]
    fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError>;
}

/// What a receiver's parameters are taken from, and what a receiver that was connected at run time gets.
pub struct Context<'a, 'c> {
    pub(crate) conn: Option<&'a mut Conn<'c>>,
    pub(crate) db: Option<&'a Db>,
    /// The row before the write, where a receiver asks for it.
    pub(crate) before: Option<&'a PreviousRow>,
}

/// What the type of a receiver's argument asks for in the phase `P`: the constant of [`Parameter`] if it is a parameter, and nothing
/// if it is not, so that the call of the function is the only error.
#[doc(hidden)]
#[derive(Debug)]
pub struct ParameterAsks<P, T>(PhantomData<(P, T)>);

/// Implemented for every type, so that the constant of a parameter, which is inherent, comes first.
#[doc(hidden)]
pub trait NotParameter {
    /// Nothing.
    const ASKS: Asks = Asks::Nothing;
}

impl<P, T> NotParameter for ParameterAsks<P, T> {}

impl<'a, 'c, P, T: Parameter<'a, 'c, P>> ParameterAsks<P, T> {
    /// What the parameter asks for.
    pub const ASKS: Asks = T::ASKS;
}

impl<'a, 'c> Context<'a, 'c> {
    pub(crate) fn new(
        conn: Option<&'a mut Conn<'c>>,
        db: Option<&'a Db>,
        before: Option<&'a PreviousRow>,
    ) -> Self {
        Self { conn, db, before }
    }

    /// The connection of the save.
    pub fn conn(&mut self) -> Option<&mut Conn<'c>> {
        self.conn.as_deref_mut()
    }

    /// A value that was given by [`Db::with`].
    pub fn state<T: 'static>(&self) -> Option<&'a T> {
        self.db.and_then(Db::state)
    }
}

impl fmt::Debug for Context<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("conn", &self.conn).field("db", &self.db).finish()
    }
}

impl<'a, 'c, S> Parameter<'a, 'c, phase::InTransaction<S>> for &'a mut Conn<'c> {
    fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
        let none =
            "its parameter list must show that it takes the connection, as `conn: &mut Conn<'_>`";
        cx.conn.take().ok_or_else(|| none.into())
    }
}

#[cfg(feature = "postgres")]
impl<'a, 'c, S> Parameter<'a, 'c, phase::InTransaction<S>> for &'a mut PgConnection {
    fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
        let conn = <&'a mut Conn<'c> as Parameter<'a, 'c, phase::InTransaction<S>>>::take(cx)?;
        conn.postgres()
            .ok_or_else(|| "it takes a `PgConnection`, and the save goes to SQLite".into())
    }
}

#[cfg(feature = "sqlite")]
impl<'a, 'c, S> Parameter<'a, 'c, phase::InTransaction<S>> for &'a mut SqliteConnection {
    fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
        let conn = <&'a mut Conn<'c> as Parameter<'a, 'c, phase::InTransaction<S>>>::take(cx)?;
        conn.sqlite()
            .ok_or_else(|| "it takes a `SqliteConnection`, and the save goes to Postgres".into())
    }
}

macro_rules! afterwards {
    ($($phase:ident)*) => { $(
        impl<'a, 'c, S> Parameter<'a, 'c, phase::$phase<S>> for Db {
            fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
                let none = "it takes a `Db`, and the save went through a connection that is of no pool";
                cx.db.cloned().ok_or_else(|| none.into())
            }
        }
    )* };
}

afterwards!(OnCommit OnRollback);
