use std::marker::PhantomData;

use sqlx::error::BoxDynError;
use sqlx::{AssertSqlSafe, Encode, SqlSafeStr, SqlStr, Type};

use crate::backend::{AnyRow, Arguments, Backend, Statement};
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
#[must_use = "a query does nothing until it is fetched or counted"]
pub struct Query<M, B> {
    clause: SqlStr,
    binds: B,
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
        Self { clause, binds: (), model: PhantomData }
    }
}

#[expect(
    clippy::manual_async_fn,
    reason = "an `async fn` does not promise that its future is `Send`"
)]
impl<M: Model, B: Send> Query<M, B> {
    /// The value of the next `$1`, `$2`, ….
    pub fn bind<'q, T: Send>(self, value: T) -> Query<M, And<'q, B, T>> {
        let binds = And { before: self.binds, value, lifetime: PhantomData };
        Query { clause: self.clause, binds, model: PhantomData }
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
            let mut count = Ok(0);
            run(source, sql, self.binds, &mut |row| count = read::scalar(&row)).await?;
            Ok(count?)
        }
    }

    async fn rows<R: Route<M>>(
        self,
        source: Source<'_>,
        mut rows: read::Rows<M, R>,
    ) -> Result<Vec<M>>
    where
        B: Binds<M, R>,
    {
        let sql = sql(M::STATEMENTS.select, &self.clause, "");
        run(source, sql, self.binds, &mut |row| rows.add(&row)).await?;
        rows.all()
    }
}

fn sql(start: &'static str, clause: &SqlStr, end: &'static str) -> SqlStr {
    AssertSqlSafe(format!("{start} {}{end}", clause.as_str())).into_sql_str()
}

async fn run<M: Model, R: Route<M>, B: Binds<M, R>>(
    source: Source<'_>,
    sql: SqlStr,
    binds: B,
    sink: &mut (dyn FnMut(AnyRow) + Send),
) -> Result<()> {
    let mut conn = source.acquire().await?;
    let mut args = Arguments::new(conn.kind());
    binds.bind(&mut args).map_err(sqlx::Error::Encode)?;
    conn.run(Statement { sql, args, persistent: true }, sink).await?;
    Ok(())
}

/// Values that can be bound on the way that a model takes to its database.
pub trait Binds<M, R>: Send {
    #[doc(hidden)]
    fn bind(self, args: &mut Arguments) -> Result<(), BoxDynError>;
}

/// Values that can be bound in one database.
pub trait BindsIn<DB: Backend>: Send {
    #[doc(hidden)]
    fn bind(self, args: &mut DB::Arguments) -> Result<(), BoxDynError>;
}

impl<DB: Backend> BindsIn<DB> for () {
    fn bind(self, _: &mut DB::Arguments) -> Result<(), BoxDynError> {
        Ok(())
    }
}

impl<'q, DB: Backend, B, T> BindsIn<DB> for And<'q, B, T>
where
    B: BindsIn<DB>,
    T: Encode<'q, DB> + Type<DB> + Send,
{
    fn bind(self, args: &mut DB::Arguments) -> Result<(), BoxDynError> {
        self.before.bind(args)?;
        sqlx::Arguments::add(args, self.value)
    }
}

impl<DB: Backend, M: Store<DB>, B: BindsIn<DB>> Binds<M, Only<DB>> for B {
    fn bind(self, args: &mut Arguments) -> Result<(), BoxDynError> {
        BindsIn::<DB>::bind(self, DB::arguments(args))
    }
}

impl<M: Portable, B: enabled::BindsInSqlite + enabled::BindsInPostgres> Binds<M, Any> for B {
    fn bind(self, args: &mut Arguments) -> Result<(), BoxDynError> {
        match args {
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(args) => BindsIn::<sqlx::Sqlite>::bind(self, args),
            #[cfg(feature = "postgres")]
            Arguments::Postgres(args) => BindsIn::<sqlx::Postgres>::bind(self, args),
        }
    }
}
