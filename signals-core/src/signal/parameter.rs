//! The parameters that a receiver can take after its event.

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

/// The phases in which a receiver can run, as types, for [`Parameter`]. `S` is the signal.
///
/// See the example of [`Parameter`]: its receivers run in the phases `InTransaction` and `OnCommit`.
pub mod phase {
    use std::marker::PhantomData;

    /// In the transaction of the write: the default.
    #[derive(Debug)]
    pub struct InTransaction<S>(PhantomData<fn() -> S>);
    /// After the outermost transaction has committed: the option `on_commit`.
    #[derive(Debug)]
    pub struct OnCommit<S>(PhantomData<fn() -> S>);
    /// After the outermost transaction, or a savepoint around the write, was rolled back: the option `on_rollback`.
    #[derive(Debug)]
    pub struct OnRollback<S>(PhantomData<fn() -> S>);
    /// In a worker: the option `durable`.
    #[derive(Debug)]
    pub struct Durable<S>(PhantomData<fn() -> S>);
    /// In a worker, for a `durable` receiver that takes the connection: in the transaction that acknowledges the delivery.
    #[derive(Debug)]
    pub struct DurableWithConnection<S>(PhantomData<fn() -> S>);
}

/// A type that a receiver can take as a parameter after its event, in the phase `P`.
///
/// A receiver requests a value by taking a parameter of its type. The parameters can be in any order. A parameter that is not available
/// in the receiver's phase is a compile error.
///
/// | parameter | phase | value |
/// |---|---|---|
/// | `conn: &mut Conn<'_>` | in the transaction, `durable` | the connection of the write, see [`Conn`] |
/// | `conn: &mut PgConnection` | in the transaction, `durable` | the same, as sqlx's PostgreSQL connection |
/// | `conn: &mut SqliteConnection` | in the transaction, `durable` | the same, as sqlx's SQLite connection |
/// | `db: Db` | `on_commit`, `on_rollback`, `durable` without the connection | the pool, see [`Db`] |
/// | `delivery: Delivery<'_>` | `durable` | the stored delivery, with its idempotency key |
/// | `State(value): State<T>` | any | a value that was added with [`Db::with`], see [`State`](crate::State) |
/// | `previous: Previous<'_, M>` | any, only for [`post_save`](crate::post_save) and [`post_delete`](crate::post_delete) | the row before the write, see [`Previous`](crate::Previous) |
///
/// ```standalone_crate
/// # use sqlx_signals::prelude::*;
/// # #[derive(Model, Clone)]
/// # struct User { id: Option<i64>, name: String }
/// # #[derive(Clone)]
/// # struct Mailer;
/// # impl Mailer { async fn send(&self, _: &str) {} }
/// #[receiver(post_save, sender = User)]
/// async fn log(
///     saved: PostSave<'_, User>,
///     previous: Previous<'_, User>,
///     conn: &mut Conn<'_>,
/// ) -> Result<()> {
///     let before = previous.row().map(|row| &*row.name);
///     conn.query("INSERT INTO log VALUES ($1, $2)").bind(saved.pk()).bind(before).execute().await?;
///     Ok(())
/// }
///
/// #[receiver(post_save, sender = User, created, on_commit)]
/// async fn welcome(saved: PostSave<'_, User>, State(mailer): State<Mailer>) {
///     mailer.send(&saved.instance.name).await;
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "a receiver cannot take `{Self}` in the phase `{P}`",
    label = "not a parameter of this phase",
    note = "in the transaction, and if it is `durable`, a receiver can take `&mut Conn<'_>` (or `&mut PgConnection`, `&mut SqliteConnection`)",
    note = "with `on_commit`, `on_rollback` or `durable`, when the transaction is over, it can take `Db`, unless it takes the connection",
    note = "in any phase it can take `State<T>`, for a `T: Clone` that was given by `Db::with`, and `Previous<'_, M>`"
)]
pub trait Parameter<'a, 'c, P>: Sized {
    /// What the library must provide for this parameter before the receiver runs.
    #[doc(hidden)]
    const ASKS: Asks = Asks::Nothing;

    #[doc(hidden)]
    fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError>;
}

/// The source of a receiver's parameters. A receiver that is connected at run time gets it as its second argument.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[derive(Model, Clone)]
/// # struct User { id: Option<i64>, name: String }
/// let handle = post_save.connect::<User>("log users", |saved, mut cx| {
///     Box::pin(async move {
///         if let Some(conn) = cx.conn() {
///             conn.query("INSERT INTO log VALUES ($1)").bind(saved.pk()).execute().await?;
///         }
///         Ok(())
///     })
/// });
/// # assert!(handle.disconnect());
/// ```
pub struct Context<'a, 'c> {
    pub(crate) conn: Option<&'a mut Conn<'c>>,
    pub(crate) db: Option<&'a Db>,
    /// The row before the write, if a receiver of the model requests it.
    pub(crate) previous: Option<&'a PreviousRow>,
}

/// What the library must provide for an argument of the type `T` in the phase `P`: [`Parameter::ASKS`] if `T` is a parameter, and nothing
/// otherwise. A type that is no parameter thus causes one compile error, at the call of the function, and not a second one here.
#[doc(hidden)]
#[derive(Debug)]
pub struct ParameterAsks<P, T>(PhantomData<(P, T)>);

/// The default for types that are no parameters. It is implemented for every type. The constant of a parameter is inherent and takes
/// precedence.
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

/// The phase of a durable receiver. `CONNECTION` is whether it takes the connection.
#[doc(hidden)]
#[derive(Debug)]
pub struct DurablePhase<const CONNECTION: bool>;

/// See [`DurablePhase`].
#[doc(hidden)]
pub trait SelectPhase<S> {
    /// The phase as the parameter of [`Parameter`].
    type Phase;
}

impl<S> SelectPhase<S> for DurablePhase<false> {
    type Phase = phase::Durable<S>;
}

impl<S> SelectPhase<S> for DurablePhase<true> {
    type Phase = phase::DurableWithConnection<S>;
}

impl<'a, 'c> Context<'a, 'c> {
    pub(crate) fn new(
        conn: Option<&'a mut Conn<'c>>,
        db: Option<&'a Db>,
        previous: Option<&'a PreviousRow>,
    ) -> Self {
        Self { conn, db, previous }
    }

    /// The connection of the write, or `None` if the receiver runs without a connection.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct City { id: Option<i64>, name: String }
    /// let _handle = post_save.connect::<City>("log", |saved, mut cx| {
    ///     Box::pin(async move {
    ///         if let Some(conn) = cx.conn() {
    ///             conn.query("INSERT INTO log VALUES ($1)").bind(&saved.instance.name).execute().await?;
    ///         }
    ///         Ok(())
    ///     })
    /// });
    /// ```
    pub fn conn(&mut self) -> Option<&mut Conn<'c>> {
        self.conn.as_deref_mut()
    }

    /// The value of this type that was added with [`Db::with`], if there is one.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct City { id: Option<i64>, name: String }
    /// #[derive(Clone)]
    /// struct Greeting(&'static str);
    ///
    /// let _handle = post_save.connect::<City>("greet", |saved, cx| {
    ///     Box::pin(async move {
    ///         if let Some(Greeting(greeting)) = cx.state() {
    ///             println!("{greeting}, {}", saved.instance.name);
    ///         }
    ///         Ok(())
    ///     })
    /// });
    /// ```
    pub fn state<T: 'static>(&self) -> Option<&'a T> {
        self.db.and_then(Db::state)
    }
}

impl fmt::Debug for Context<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("conn", &self.conn).field("db", &self.db).finish()
    }
}

macro_rules! with_connection {
    ($($phase:ident)*) => { $(
        impl<'a, 'c, S> Parameter<'a, 'c, phase::$phase<S>> for &'a mut Conn<'c> {
            const ASKS: Asks = Asks::Connection;

            fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
                cx.conn.take().ok_or_else(|| "it takes the connection, and runs without one".into())
            }
        }

        #[cfg(feature = "postgres")]
        impl<'a, 'c, S> Parameter<'a, 'c, phase::$phase<S>> for &'a mut PgConnection {
            const ASKS: Asks = Asks::Connection;

            fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
                let conn = <&'a mut Conn<'c> as Parameter<'a, 'c, phase::$phase<S>>>::take(cx)?;
                conn.postgres().ok_or_else(|| "it takes a `PgConnection`, and the save goes to SQLite".into())
            }
        }

        #[cfg(feature = "sqlite")]
        impl<'a, 'c, S> Parameter<'a, 'c, phase::$phase<S>> for &'a mut SqliteConnection {
            const ASKS: Asks = Asks::Connection;

            fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
                let conn = <&'a mut Conn<'c> as Parameter<'a, 'c, phase::$phase<S>>>::take(cx)?;
                conn.sqlite().ok_or_else(|| "it takes a `SqliteConnection`, and the save goes to Postgres".into())
            }
        }
    )* };
}

with_connection!(InTransaction DurableWithConnection);

macro_rules! afterwards {
    ($($phase:ident)*) => { $(
        impl<'a, 'c, S> Parameter<'a, 'c, phase::$phase<S>> for Db {
            fn take(cx: &mut Context<'a, 'c>) -> Result<Self, BoxError> {
                let missing = "it takes a `Db`, and the save went through a connection that is of no pool: save through a `Db`, or \
                               call `db.make_default()` when the program starts";
                cx.db.cloned().ok_or_else(|| missing.into())
            }
        }
    )* };
}

afterwards!(OnCommit OnRollback Durable);
