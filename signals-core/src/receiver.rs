use std::any::{Any, TypeId};
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use futures_util::future::BoxFuture;
#[cfg(feature = "postgres")]
use sqlx::PgConnection;
#[cfg(feature = "sqlite")]
use sqlx::SqliteConnection;

use crate::any::AnyModel;
use crate::conn::Conn;
use crate::db::Db;
use crate::error::BoxError;
use crate::model::Model;
use crate::previous::Before;
use crate::signal::{Deferrable, Lifetime, Sender, Signal, Subject, TellsChange};
use crate::state::StateType;

/// The type that `#[receiver]` makes beside a function of the same name, so that the receiver can be named.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a receiver",
    label = "not a receiver",
    note = "`#[receiver]` on a function makes a type of the function's name"
)]
pub trait Receiver: Send + Sync + 'static {}

/// When a receiver runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// At once, in the transaction.
    InTransaction,
    /// After the outermost transaction has committed.
    OnCommit,
    /// After the outermost transaction, or a savepoint around the write, was rolled back.
    OnRollback,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::InTransaction => "in transaction",
            Phase::OnCommit => "on commit",
            Phase::OnRollback => "on rollback",
        })
    }
}

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
    pub(crate) before: Option<&'a dyn Before>,
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
        before: Option<&'a dyn Before>,
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

/// What a receiver returns: nothing, or `Result<(), E>` where `E` can be boxed as an error.
#[diagnostic::on_unimplemented(
    message = "a receiver cannot return `{Self}`",
    label = "expected nothing or `Result<(), E>`",
    note = "a receiver returns nothing, or `Result<(), E>` with an `E: Into<Box<dyn Error + Send + Sync>>`"
)]
pub trait Outcome {
    #[doc(hidden)]
    fn into_result(self) -> Result<(), BoxError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// What is known of a receiver beside the function itself.
#[derive(Debug, Clone, Copy)]
pub struct Info {
    pub(crate) receiver: TypeId,
    pub(crate) name: &'static str,
    pub(crate) signal: &'static str,
    pub(crate) sender: &'static str,
    pub(crate) file: &'static str,
    pub(crate) line: u32,
    pub(crate) doc: &'static str,
    pub(crate) phase: Phase,
    pub(crate) order: i32,
    pub(crate) created: Option<bool>,
    /// The columns of which one must have changed.
    pub(crate) changed: &'static [&'static str],
    /// Whether it takes the connection.
    pub(crate) connection: bool,
    /// Whether its failure is only logged.
    pub(crate) robust: bool,
    /// Whether it cannot fail but by a panic: a plain function of the event alone that returns nothing.
    pub(crate) infallible: bool,
    /// The receivers that it runs after.
    pub(crate) after: &'static [TypeId],
    /// Two with one identity are one; none where it is empty.
    pub(crate) uid: &'static str,
    /// Asks for all that it takes.
    pub(crate) ask: Ask,
}

/// Asks for every parameter of a receiver.
pub(crate) type Ask = for<'x, 'a, 'c> fn(&'x mut Cx<'a, 'c>);

impl Info {
    /// Of the receiver that the type `R` names.
    pub const fn new<R: Receiver, S: Signal, M: Sender + ?Sized>(
        name: &'static str,
        file: &'static str,
        line: u32,
        doc: &'static str,
        connection: bool,
    ) -> Self {
        Self {
            receiver: TypeId::of::<R>(),
            name,
            signal: S::NAME,
            sender: M::NAME,
            file,
            line,
            doc,
            phase: Phase::InTransaction,
            order: 0,
            created: None,
            changed: &[],
            connection,
            robust: false,
            infallible: false,
            after: &[],
            uid: "",
            ask: |_| (),
        }
    }

    /// Of a receiver that is connected at run time.
    pub(crate) fn connected<S: Signal, M: Sender>(
        uid: &'static str,
        at: &'static Location<'static>,
    ) -> Self {
        struct Connected;
        impl Receiver for Connected {}
        let info = Self::new::<Connected, S, M>(uid, at.file(), at.line(), "", true);
        Self { uid, ..info }
    }

    /// Whether the row before the write must be read for it.
    pub(crate) fn asks_previous(&self) -> bool {
        !self.changed.is_empty() || self.asked().previous
    }

    /// What it takes.
    pub(crate) fn asked(&self) -> Asked {
        let mut cx = Cx { asked: Some(Asked::default()), ..Cx::new(None, None, None) };
        (self.ask)(&mut cx);
        cx.asked.unwrap_or_default()
    }

    /// With a failure that is only logged.
    pub const fn robust(mut self) -> Self {
        self.robust = true;
        self
    }

    /// One that cannot fail but by a panic.
    pub const fn infallible(mut self) -> Self {
        self.infallible = true;
        self
    }

    /// Runs after these.
    pub const fn after(mut self, after: &'static [TypeId]) -> Self {
        self.after = after;
        self
    }

    /// With an identity, of which there is one for each signal and sender.
    pub const fn uid(mut self, uid: &'static str) -> Self {
        self.uid = uid;
        self
    }

    /// Takes these parameters.
    pub const fn ask(mut self, ask: Ask) -> Self {
        self.ask = ask;
        self
    }

    /// With another phase than in the transaction.
    pub const fn phase(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    /// With a place among the receivers: the lower, the earlier.
    pub const fn order(mut self, order: i32) -> Self {
        self.order = order;
        self
    }

    /// Only for rows that are new, or only for those that are not.
    pub const fn created<S: TellsChange>(mut self, created: bool) -> Self {
        self.created = Some(created);
        self
    }

    /// Only where one of these columns has changed.
    pub const fn changed<S: TellsChange>(mut self, columns: &'static [&'static str]) -> Self {
        self.changed = columns;
        self
    }
}

/// How a receiver is called.
pub(crate) type SyncCall<S, M> =
    for<'a, 'c> fn(<S as Signal>::Event<'a, M>, Cx<'a, 'c>) -> Result<(), BoxError>;
pub(crate) type AsyncCall<S, M> =
    for<'a, 'c> fn(<S as Signal>::Event<'a, M>, Cx<'a, 'c>) -> BoxFuture<'a, Result<(), BoxError>>;
pub(crate) type SharedCall<S, M> = Arc<
    dyn for<'a, 'c> Fn(
            <S as Signal>::Event<'a, M>,
            Cx<'a, 'c>,
        ) -> BoxFuture<'a, Result<(), BoxError>>
        + Send
        + Sync,
>;
type Keep<S, M> = for<'e> fn(&<S as Signal>::Event<'e, M>) -> <S as Signal>::Kept<M>;

/// A receiver of the signal `S` from the model `M`.
pub struct Entry<S: Signal, M: Send + Sync + 'static> {
    pub(crate) info: &'static Info,
    pub(crate) call: Call<S, M>,
    /// Keeps the event until the end of the transaction, for a receiver that waits for it.
    pub(crate) keep: Option<Keep<S, M>>,
}

pub(crate) enum Call<S: Signal, M: ?Sized + Subject> {
    Sync(SyncCall<S, M>),
    Async(AsyncCall<S, M>),
    /// Connected at run time.
    Shared(SharedCall<S, M>),
    /// One of every model.
    Any(&'static AnyEntry<S>, Erase<S, M>),
}

type Erase<S, M> =
    for<'e> fn(<S as Signal>::Event<'e, M>, Lifetime<'e>) -> <S as Signal>::Event<'e, dyn AnyModel>;

impl<S: Signal, M: ?Sized + Subject> Clone for Call<S, M> {
    fn clone(&self) -> Self {
        match self {
            Self::Sync(call) => Self::Sync(*call),
            Self::Async(call) => Self::Async(*call),
            Self::Shared(call) => Self::Shared(Arc::clone(call)),
            Self::Any(entry, erase) => Self::Any(entry, *erase),
        }
    }
}

impl<S: Signal, M: Send + Sync + 'static> Clone for Entry<S, M> {
    fn clone(&self) -> Self {
        Self { info: self.info, call: self.call.clone(), keep: self.keep }
    }
}

impl<S: Signal, M: Send + Sync + 'static> Entry<S, M> {
    /// A plain function.
    pub const fn sync(info: &'static Info, call: SyncCall<S, M>) -> Self {
        Self { info, call: Call::Sync(call), keep: None }
    }

    /// An async function.
    pub const fn future(info: &'static Info, call: AsyncCall<S, M>) -> Self {
        Self { info, call: Call::Async(call), keep: None }
    }

    /// Waits for the end of the transaction, and so needs a copy of the row.
    pub const fn deferred(self) -> Self
    where
        S: Deferrable,
        M: Clone,
    {
        // Not `..self`: a value with a destructor cannot be taken apart in a constant.
        let mut entry = self;
        entry.keep = Some(S::keep::<M>);
        entry
    }
}

/// A receiver of the signal `S` from every model.
pub struct AnyEntry<S: Signal> {
    pub(crate) info: &'static Info,
    pub(crate) call: Call<S, dyn AnyModel>,
}

impl<S: Signal> AnyEntry<S> {
    /// A plain function.
    pub const fn sync(info: &'static Info, call: SyncCall<S, dyn AnyModel>) -> Self {
        Self { info, call: Call::Sync(call) }
    }

    /// An async function.
    pub const fn future(info: &'static Info, call: AsyncCall<S, dyn AnyModel>) -> Self {
        Self { info, call: Call::Async(call) }
    }

    /// Waits for the end of the transaction.
    pub const fn deferred(self) -> Self
    where
        S: Deferrable,
    {
        self
    }

    /// The same receiver for one of the models.
    pub(crate) fn of<M: Model>(&'static self) -> Entry<S, M> {
        Entry { info: self.info, call: Call::Any(self, S::erase::<M>), keep: None }
    }
}

/// One `#[receiver]`, as it is collected at link time.
#[derive(Clone, Copy)]
pub struct Registration {
    pub(crate) info: &'static Info,
    pub(crate) signal: TypeId,
    pub(crate) sender: TypeId,
    /// An `Entry<S, M>` of that signal and sender, or an `AnyEntry<S>`.
    pub(crate) entry: &'static (dyn Any + Send + Sync),
}

impl Registration {
    /// A registration of `entry`, which is what the signal and the sender say.
    pub const fn new<S: Signal, M: ?Sized + 'static>(
        info: &'static Info,
        entry: &'static (dyn Any + Send + Sync),
    ) -> Self {
        Self { info, signal: TypeId::of::<S>(), sender: TypeId::of::<M>(), entry }
    }
}

inventory::collect!(Registration);
