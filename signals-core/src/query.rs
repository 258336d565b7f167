use std::any::type_name;
use std::marker::PhantomData;

use sqlx::error::BoxDynError;
use sqlx::{AssertSqlSafe, Encode, SqlSafeStr, SqlStr, Type};

use crate::backend::{AnyType, Arguments, Backend, DatabaseKind, Statement};
use crate::change::Change;
use crate::clause::Clause;
use crate::column::Column;
use crate::control;
use crate::error::{Error, Result};
use crate::executor::{Executor, Source};
use crate::model::Model;
use crate::read;
use crate::store::{Any, Only, Portable, Route, Store, enabled};

/// Rows of a model by condition, made by [`Model::query`].
///
/// The type of what is bound is part of its own, so that a value which only one database has can be bound where that
/// database's pool or connection is used. Where the number of values is known only at run time, use
/// [`Db::query`](crate::Db::query), which reads models too; a function that queries takes `&Db` or `&mut Conn<'_>`, not any
/// [`Executor`].
#[must_use = "a query does nothing until it is fetched, counted, updated or deleted"]
pub struct Query<M, B> {
    clause: SqlStr,
    binds: B,
    /// How many values are bound.
    bound: usize,
    /// The columns to be set, and which of the bound values each is set to.
    set: Vec<(Column<M>, usize)>,
    model: PhantomData<fn() -> M>,
}

/// What was bound before, and one more value.
pub struct And<'q, B, T> {
    before: B,
    value: T,
    lifetime: PhantomData<fn() -> &'q ()>,
}

impl<M: Model> Query<M, ()> {
    pub(crate) fn new(clause: SqlStr) -> Self {
        Self { clause, binds: (), bound: 0, set: Vec::new(), model: PhantomData }
    }
}

#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` does not promise that its future is `Send`"
)]
impl<M: Model, B: Send> Query<M, B> {
    /// The value of the next `$1`, `$2`, ….
    pub fn bind<'q, T: Send>(self, value: T) -> Query<M, And<'q, B, T>> {
        let Self { clause, binds, bound, set, .. } = self;
        let binds = And { before: binds, value, lifetime: PhantomData };
        Query { clause, binds, bound: bound + 1, set, model: PhantomData }
    }

    /// A value that [`update`](Self::update) is to set a column to. It takes the next place, behind what was bound before.
    ///
    /// The value is of the field's type or of one that the database assigns to it: an integer of another width, an integer
    /// for a float, `&str` for `String`, an `Option` of these. With any other type, the update is an error before any SQL is
    /// sent; so is `None` for a field that is no `Option`. A field with `#[model(json)]` is set to a `Json<T>`.
    ///
    /// A value is stored as the field stores it, whether or not there are receivers. If its type is another one and the field could
    /// store it in another way, as a `NaiveDateTime` does a `DateTime<Utc>` on SQLite, or could not be read from it, as an enum
    /// from a `&str`, the value is read as the field first, with a statement of its own.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String, people: i64 }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL, people INTEGER NOT NULL)").await?;
    /// City::query("").set(City::PEOPLE, 7).update(&db).await?;
    /// assert!(City::query("").set(City::NAME, 7).update(&db).await.is_err());
    /// # Ok(()) }
    /// ```
    pub fn set<'q, T: Send>(mut self, column: Column<M>, value: T) -> Query<M, And<'q, B, T>> {
        self.set.push((column, self.bound + 1));
        self.bind(value)
    }

    /// Updates every row that fits, and returns how many: the columns that were [`set`](Self::set), and with them `auto_now`
    /// columns and the version.
    ///
    /// The rows are those that [`fetch_all`](Self::fetch_all) returns, each once: the clause can join other tables, order, limit
    /// and lock (`LIMIT 1 FOR UPDATE SKIP LOCKED`). A value is stored as the column has it, as in an UPDATE by hand. If a column
    /// is set twice, the last value counts.
    ///
    /// Without receivers of the model's saves it is one UPDATE. With receivers, the rows are read, with the new values and with
    /// the lock that the UPDATE takes, and every signal is sent as by [`update_many`](Model::update_many),
    /// [`PreSave::fields`](crate::PreSave::fields) naming the columns; all of them are in memory meanwhile. The lock is `FOR NO
    /// KEY UPDATE`, and `FOR UPDATE` if a column with `#[model(unique)]` is set.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, country: String, visited: bool }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, country TEXT NOT NULL, visited BOOLEAN NOT NULL)").await?;
    /// let visited =
    ///     City::query("WHERE country = $1").bind("Peru").set(City::VISITED, true).update(&db).await?;
    /// # assert_eq!(visited, 0); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`update_many`](Model::update_many): all rows are updated, or none.
    ///
    /// # Cancel safety
    ///
    /// As [`save`](Model::save).
    pub fn update<E>(self, db: E) -> impl Future<Output = Result<u64>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move {
            let change = Change::<M>::update(&self.set, self.bound)?;
            change.run::<E::Route, B>(db.into_source(), &self.clause, self.binds).await
        }
    }

    /// Deletes every row that fits, and returns how many.
    ///
    /// The rows are those that [`fetch_all`](Self::fetch_all) returns, each once.
    ///
    /// Without receivers of the model's deletes, and without rows that belong to it, it is one DELETE. With receivers, the rows
    /// are read and locked, and every signal is sent as by [`delete_many`](Model::delete_many); all of them are in memory
    /// meanwhile.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, country: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, country TEXT NOT NULL)").await?;
    /// let gone = City::query("WHERE country = $1").bind("Atlantis").delete(&db).await?;
    /// # assert_eq!(gone, 0); Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`delete_many`](Model::delete_many): all rows are deleted, or none.
    ///
    /// # Cancel safety
    ///
    /// As [`delete`](Model::delete).
    pub fn delete<E>(self, db: E) -> impl Future<Output = Result<u64>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move {
            let change = Change::<M>::Delete;
            change.run::<E::Route, B>(db.into_source(), &self.clause, self.binds).await
        }
    }

    /// Every row that fits.
    ///
    /// # Errors
    ///
    /// What the database refuses, and a row that does not decode.
    pub fn fetch_all<E>(self, db: E) -> impl Future<Output = Result<Vec<M>>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move { self.rows::<E::Route>(db.into_source(), read::Rows::default()).await }
    }

    /// The first row that fits, if there is one.
    ///
    /// # Errors
    ///
    /// As [`fetch_all`](Self::fetch_all).
    pub fn fetch_optional<E>(self, db: E) -> impl Future<Output = Result<Option<M>>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move {
            let rows = self.rows::<E::Route>(db.into_source(), read::Rows::first());
            Ok(rows.await?.into_iter().next())
        }
    }

    /// The first row that fits.
    ///
    /// # Errors
    ///
    /// As [`fetch_all`](Self::fetch_all), and [`Error::NotFound`] where there is none.
    pub fn fetch_one<E>(self, db: E) -> impl Future<Output = Result<M>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        let clause = self.clause.clone();
        async move {
            let rows = self.rows::<E::Route>(db.into_source(), read::Rows::first());
            let key = || clause.as_str().to_owned();
            rows.await?
                .into_iter()
                .next()
                .ok_or_else(|| Error::NotFound { model: M::NAME, key: key() })
        }
    }

    /// How many rows [`fetch_all`](Self::fetch_all) would give.
    ///
    /// # Errors
    ///
    /// What the database refuses.
    pub fn count<E>(self, db: E) -> impl Future<Output = Result<i64>> + Send
    where
        E: Executor<M>,
        B: Binds<M, E::Route>,
    {
        async move {
            let source = db.into_source();
            let sql = sql(M::STATEMENTS.count, &self.clause, "\n) AS matching");
            let count_rows = statement::<M, E::Route, B>(source.kind(), sql, self.binds)?;
            let mut count = Ok(0);
            read::each(source, count_rows, &mut |row| count = read::scalar(&row)).await?;
            Ok(count?)
        }
    }

    async fn rows<R: Route<M>>(self, source: Source<'_>, rows: read::Rows<M, R>) -> Result<Vec<M>>
    where
        B: Binds<M, R>,
    {
        let sql = select::<M>(&self.clause);
        let select = statement::<M, R, B>(source.kind(), sql, self.binds)?;
        read::fetch(source, select, rows).await
    }
}

/// The rows of the model, whose columns have the name of the table if the clause can join another one.
fn select<M: Model>(clause: &SqlStr) -> SqlStr {
    let model = M::STATEMENTS;
    let Some(table) = Clause(clause.as_str()).table(model.table) else {
        return sql(model.select, clause, "");
    };
    let columns: Vec<_> = model.columns.iter().map(|c| format!("{table}.{}", c.name)).collect();
    let (columns, from) = (columns.join(", "), model.table);
    AssertSqlSafe(format!("SELECT {columns} FROM {from} {}", clause.as_str())).into_sql_str()
}

fn sql(start: &'static str, clause: &SqlStr, end: &'static str) -> SqlStr {
    AssertSqlSafe(format!("{start} {}{end}", clause.as_str())).into_sql_str()
}

/// A statement with what was bound.
pub(crate) fn statement<M: Model, R: Route<M>, B: Binds<M, R>>(
    kind: DatabaseKind,
    sql: SqlStr,
    binds: B,
) -> Result<Statement, sqlx::Error> {
    refuse_control(kind, sql.as_str())?;
    let args = arguments::<M, R, B>(kind, binds, None).map_err(sqlx::Error::Encode)?;
    Ok(Statement { sql, args, persistent: true })
}

/// Refuses a condition that begins or ends a transaction: SQLite runs every statement of a text.
pub(crate) fn refuse_control(kind: DatabaseKind, sql: &str) -> Result<(), sqlx::Error> {
    if sql.contains(';')
        && let Some(control) = control::find(kind, sql)
    {
        let error = format!("`{}` is no part of a condition", control.statement);
        return Err(sqlx::Error::Configuration(error.into()));
    }
    Ok(())
}

/// What was bound, after `inspect` has seen each value.
pub(crate) fn arguments<M: Model, R: Route<M>, B: Binds<M, R>>(
    kind: DatabaseKind,
    binds: B,
    inspect: Inspect<'_, '_>,
) -> Result<Arguments, BoxDynError> {
    let mut args = Arguments::new(kind);
    binds.bind(&mut args, inspect)?;
    Ok(args)
}

/// What there is to know of a value before it is bound.
pub struct Offered {
    pub(crate) ty: AnyType,
    /// The name of its type in the program.
    name: &'static str,
    null: bool,
}

impl Offered {
    /// Whether it is `None`. A type of the program's own may be NULL where the field's is no `Option`, for it may be the
    /// field's type.
    pub(crate) fn is_none(&self) -> bool {
        let name = self.name.trim_start_matches('&');
        self.null && name.starts_with("core::option::Option<")
    }

    /// Whether it is stored as a field of the type of this name is: it is NULL, or of the same type, or both are strings.
    pub(crate) fn is_stored_as(&self, field: &str) -> bool {
        let are_strings = || [Some(Notation::String); 2] == [self.notation(), Notation::of(field)];
        self.null || bare(self.name) == bare(field) || are_strings()
    }

    /// What the text of it means.
    pub(crate) fn notation(&self) -> Option<Notation> {
        Notation::of(self.name)
    }
}

/// The name of a type without what is around it and does not change how a value is stored.
fn bare(mut name: &str) -> &str {
    const AROUND: [&str; 3] = [
        "core::option::Option<",
        "sqlx_core::types::json::Json<",
        "sqlx_signals_core::field::JsonColumn<",
    ];
    loop {
        name = name.trim_start_matches('&');
        let inner = |around: &&str| name.strip_prefix(around)?.strip_suffix('>');
        match AROUND.iter().find_map(inner) {
            Some(inner) => name = inner,
            None => return name,
        }
    }
}

/// What the text of a value means. SQLite has one type for both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notation {
    String,
    Json,
}

impl Notation {
    /// That of a type of this name, if it is not one of the program's own.
    pub(crate) fn of(type_name: &str) -> Option<Self> {
        const JSON: [&str; 4] = [
            "sqlx_core::types::json::Json<",
            "serde_json::",
            "alloc::boxed::Box<serde_json::",
            "sqlx_signals_core::field::JsonColumn<",
        ];
        let name = type_name.trim_start_matches('&').trim_start_matches("core::option::Option<");
        let name = name.trim_start_matches('&');
        if JSON.iter().any(|json| name.starts_with(json)) {
            return Some(Self::Json);
        }
        let is_string = matches!(
            name.trim_end_matches('>'),
            "str" | "alloc::string::String" | "alloc::boxed::Box<str" | "alloc::borrow::Cow<str"
        );
        is_string.then_some(Self::String)
    }
}

/// Sees each value before it is bound, in their order.
pub(crate) type Inspect<'i, 'f> =
    Option<&'i mut (dyn FnMut(Offered) -> Result<(), BoxDynError> + 'f)>;

/// Values that can be bound on the way that a model takes to its database.
pub trait Binds<M, R>: Send {
    #[doc(hidden)]
    fn bind(self, args: &mut Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError>;
}

/// Values that can be bound in one database.
pub trait BindsIn<DB: Backend>: Send {
    #[doc(hidden)]
    fn bind(self, args: &mut DB::Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError>;
}

impl<DB: Backend> BindsIn<DB> for () {
    fn bind(self, _: &mut DB::Arguments, _: Inspect<'_, '_>) -> Result<(), BoxDynError> {
        Ok(())
    }
}

impl<'q, DB: Backend, B, T> BindsIn<DB> for And<'q, B, T>
where
    B: BindsIn<DB>,
    T: Encode<'q, DB> + Type<DB> + Send,
{
    fn bind(
        self,
        args: &mut DB::Arguments,
        mut inspect: Inspect<'_, '_>,
    ) -> Result<(), BoxDynError> {
        self.before.bind(args, inspect.as_deref_mut())?;
        if let Some(inspect) = inspect {
            let ty = self.value.produces().unwrap_or_else(T::type_info);
            let name = type_name::<T>();
            inspect(Offered { ty: DB::any_type(ty), name, null: DB::is_null(&self.value) })?;
        }
        sqlx::Arguments::add(args, self.value)
    }
}

impl<DB: Backend, M: Store<DB>, B: BindsIn<DB>> Binds<M, Only<DB>> for B {
    fn bind(self, args: &mut Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError> {
        BindsIn::<DB>::bind(self, DB::arguments(args), inspect)
    }
}

impl<M: Portable, B: enabled::BindsInSqlite + enabled::BindsInPostgres> Binds<M, Any> for B {
    fn bind(self, args: &mut Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError> {
        match args {
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(args) => BindsIn::<sqlx::Sqlite>::bind(self, args, inspect),
            #[cfg(feature = "postgres")]
            Arguments::Postgres(args) => BindsIn::<sqlx::Postgres>::bind(self, args, inspect),
        }
    }
}
