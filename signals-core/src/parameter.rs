//! What a receiver takes after its event.

use std::fmt;

#[cfg(feature = "postgres")]
use sqlx::PgConnection;
#[cfg(feature = "sqlite")]
use sqlx::SqliteConnection;

use crate::conn::Conn;
use crate::db::Db;
use crate::error::BoxError;
use crate::previous::Before;
use crate::state::StateType;

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
    #[doc(hidden)]
    fn take(cx: &mut Cx<'a, 'c>) -> Result<Self, BoxError>;
}

/// What a receiver's parameters are taken from, and what a receiver that was connected at run time gets.
pub struct Cx<'a, 'c> {
    pub(crate) conn: Option<&'a mut Conn<'c>>,
    pub(crate) db: Option<&'a Db>,
    /// The row before the write, where a receiver asks for it.
    pub(crate) before: Option<&'a Before>,
    /// What was asked for, where nobody wants more than to know that.
    pub(crate) asked: Option<Asked>,
}

/// What a receiver takes beside its event and the connection.
#[derive(Default)]
pub(crate) struct Asked {
    pub(crate) states: Vec<StateType>,
    pub(crate) previous: bool,
}

impl<'a, 'c> Cx<'a, 'c> {
    pub(crate) fn new(
        conn: Option<&'a mut Conn<'c>>,
        db: Option<&'a Db>,
        before: Option<&'a Before>,
    ) -> Self {
        Self { conn, db, before, asked: None }
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

impl fmt::Debug for Cx<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx").field("conn", &self.conn).field("db", &self.db).finish()
    }
}

impl<'a, 'c, S> Parameter<'a, 'c, phase::InTransaction<S>> for &'a mut Conn<'c> {
    fn take(cx: &mut Cx<'a, 'c>) -> Result<Self, BoxError> {
        let none =
            "its parameter list must show that it takes the connection, as `conn: &mut Conn<'_>`";
        cx.conn.take().ok_or_else(|| none.into())
    }
}

#[cfg(feature = "postgres")]
impl<'a, 'c, S> Parameter<'a, 'c, phase::InTransaction<S>> for &'a mut PgConnection {
    fn take(cx: &mut Cx<'a, 'c>) -> Result<Self, BoxError> {
        let conn = <&'a mut Conn<'c> as Parameter<'a, 'c, phase::InTransaction<S>>>::take(cx)?;
        conn.postgres()
            .ok_or_else(|| "it takes a `PgConnection`, and the save goes to SQLite".into())
    }
}

#[cfg(feature = "sqlite")]
impl<'a, 'c, S> Parameter<'a, 'c, phase::InTransaction<S>> for &'a mut SqliteConnection {
    fn take(cx: &mut Cx<'a, 'c>) -> Result<Self, BoxError> {
        let conn = <&'a mut Conn<'c> as Parameter<'a, 'c, phase::InTransaction<S>>>::take(cx)?;
        conn.sqlite()
            .ok_or_else(|| "it takes a `SqliteConnection`, and the save goes to Postgres".into())
    }
}

macro_rules! afterwards {
    ($($phase:ident)*) => { $(
        impl<'a, 'c, S> Parameter<'a, 'c, phase::$phase<S>> for Db {
            fn take(cx: &mut Cx<'a, 'c>) -> Result<Self, BoxError> {
                let none = "it takes a `Db`, and the save went through a connection that is of no pool";
                cx.db.cloned().ok_or_else(|| none.into())
            }
        }
    )* };
}

afterwards!(OnCommit OnRollback);
