use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::backend::{AnyRow, Arguments, Backend, Make, Sink, Statement};
use crate::conn::Conn;
use crate::dispatch::dispatch;
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::instances::{Instances, Of, Telling, Told};
use crate::model::{self, Model};
use crate::store::Route;
use crate::subscriber::Subscriber;
use crate::unit::Scene;

/// Takes the rows of a statement, as models.
pub(crate) trait Loads: Send {
    fn load(&mut self, row: &AnyRow) -> Result<(), sqlx::Error>;

    /// The receivers of what is read.
    fn heard(&self) -> Option<Arc<Vec<Subscriber>>>;

    /// Those that it has taken, for receivers; none where it has none.
    fn rows(&mut self) -> Option<Box<dyn Instances + '_>>;
}

/// The row of a statement of at most one.
pub(crate) struct Found<M, R> {
    pub(crate) row: Option<M>,
    route: PhantomData<fn() -> R>,
}

impl<M, R> Default for Found<M, R> {
    fn default() -> Self {
        Self { row: None, route: PhantomData }
    }
}

impl<M: Model, R: Route<M>> Found<M, R> {
    /// Reads the row with this key.
    pub(crate) async fn by_key(&mut self, source: Source<'_>, key: &M::Pk) -> Result<()> {
        let make = |kind| {
            let mut args = Arguments::new(kind);
            R::bind_key(key, &mut args).map_err(sqlx::Error::Encode)?;
            Ok(Statement::fixed(M::STATEMENTS.find, args))
        };
        one(source, &make, self).await
    }

    /// A row that was read.
    pub(crate) async fn loaded(row: &AnyRow, conn: &mut Conn<'_>) -> Result<M> {
        let mut found = Self { row: Some(R::load(row, 0)?), route: PhantomData };
        loaded(&mut found, conn).await?;
        Ok(found.row.expect("the row that was read"))
    }
}

impl<M: Model, R: Route<M>> Loads for Found<M, R> {
    fn load(&mut self, row: &AnyRow) -> Result<(), sqlx::Error> {
        self.row = Some(R::load(row, 0)?);
        Ok(())
    }

    fn heard(&self) -> Option<Arc<Vec<Subscriber>>> {
        M::__table().heard_load()
    }

    fn rows(&mut self) -> Option<Box<dyn Instances + '_>> {
        self.row.as_mut().map(|row| Of::<M, R>::one(row).boxed())
    }
}

/// Reads at most one row. It is compiled once for each part of a program that the compiler takes for itself, but not for each
/// model.
async fn one(source: Source<'_>, make: Make<'_>, sink: &mut dyn Loads) -> Result<()> {
    let mut conn = source.acquire().await?;
    if let Some(row) = conn.read_one(make).await? {
        sink.load(&row)?;
        loaded(sink, &mut conn).await?;
    }
    Ok(())
}

pub(crate) async fn all<M: Model, R: Route<M>>(source: Source<'_>) -> Result<Vec<M>> {
    let select = Statement::fixed(M::STATEMENTS.select, Arguments::new(source.kind()));
    fetch::<M, R>(source, select, Rows::default()).await
}

/// The rows of a statement, as models.
pub(crate) async fn fetch<M: Model, R: Route<M>>(
    source: Source<'_>,
    statement: Statement,
    mut rows: Rows<M, R>,
) -> Result<Vec<M>> {
    several(source, statement, &mut rows).await?;
    Ok(rows.rows)
}

/// As [`one`], of all rows, and on the heap.
fn several<'k>(
    source: Source<'k>,
    statement: Statement,
    sink: &'k mut dyn Loads,
) -> BoxFuture<'k, Result<()>> {
    Box::pin(async move {
        let mut conn = source.acquire().await?;
        take(&mut conn, statement, sink).await?;
        loaded(sink, &mut conn).await
    })
}

/// Takes the rows of a statement, of which no receiver is told. The first that does not decode is the result; the statement
/// is read to its end all the same.
pub(crate) async fn take(
    conn: &mut Conn<'_>,
    statement: Statement,
    sink: &mut dyn Loads,
) -> Result<()> {
    let mut done = Ok(());
    let mut load = |row| {
        if done.is_ok() {
            done = sink.load(&row);
        }
    };
    conn.run(statement, &mut load).await?;
    Ok(done?)
}

/// Gives each row of a statement to `sink`. On the heap, so that it is compiled once, and not for each model.
pub(crate) fn each<'s, 'k>(
    source: Source<'s>,
    statement: Statement,
    sink: Sink<'k>,
) -> BoxFuture<'k, Result<Conn<'s>>>
where
    's: 'k,
{
    Box::pin(async move {
        let mut conn = source.acquire().await?;
        conn.run(statement, sink).await?;
        Ok(conn)
    })
}

/// Tells the receivers of [`post_load`](crate::post_load) of rows that were read.
pub(crate) async fn loaded(sink: &mut dyn Loads, conn: &mut Conn<'_>) -> Result<()> {
    if let Some(receivers) = sink.heard()
        && let Some(mut rows) = sink.rows()
    {
        return tell(receivers, &mut *rows, conn).await;
    }
    Ok(())
}

fn tell<'t>(
    receivers: Arc<Vec<Subscriber>>,
    rows: &'t mut dyn Instances,
    conn: &'t mut Conn<'_>,
) -> BoxFuture<'t, Result<()>> {
    Box::pin(async move {
        let scene = Scene::enter("load", rows.model(), &conn.reborrow().into())?;
        for row in 0..rows.len() {
            let mut event = Telling { rows: &mut *rows, told: Told::PostLoad(row) };
            dispatch(&receivers, &mut event, Some(&mut *conn), &scene, &None).await?;
        }
        Ok(())
    })
}

pub(crate) fn not_found<M: Model>(key: Option<&M::Pk>) -> Error {
    model::no_row(M::NAME, key.map(|key| key as &dyn Debug))
}

/// Collects the rows of a statement.
pub(crate) struct Rows<M, R> {
    pub(crate) rows: Vec<M>,
    only_first: bool,
    route: PhantomData<fn() -> R>,
}

impl<M, R> Default for Rows<M, R> {
    fn default() -> Self {
        Self { rows: Vec::new(), only_first: false, route: PhantomData }
    }
}

impl<M, R> Rows<M, R> {
    pub(crate) fn first() -> Self {
        Self { only_first: true, ..Self::default() }
    }
}

impl<M: Model, R: Route<M>> Loads for Rows<M, R> {
    fn load(&mut self, row: &AnyRow) -> Result<(), sqlx::Error> {
        if !self.only_first || self.rows.is_empty() {
            self.rows.push(R::load(row, 0)?);
        }
        Ok(())
    }

    fn heard(&self) -> Option<Arc<Vec<Subscriber>>> {
        M::__table().heard_load()
    }

    fn rows(&mut self) -> Option<Box<dyn Instances + '_>> {
        let rows = &mut *self.rows;
        (!rows.is_empty()).then(|| Of::<M, R>::new(rows).boxed())
    }
}

/// A column of a row, as a truth value.
pub(crate) fn flag(row: &AnyRow, at: usize) -> Result<bool, sqlx::Error> {
    match row {
        #[cfg(feature = "sqlite")]
        AnyRow::Sqlite(row) => sqlx::Sqlite::get(row, at),
        #[cfg(feature = "postgres")]
        AnyRow::Postgres(row) => sqlx::Postgres::get(row, at),
    }
}

/// Whether a column has the same JSON in both rows. The order of the members of an object does not count.
pub(crate) fn is_same_json(row: &AnyRow, other: &AnyRow, at: usize) -> Result<bool, sqlx::Error> {
    let value = |row| {
        let bytes = bytes(row, at)?;
        let value = bytes.and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
        Ok::<_, sqlx::Error>(value)
    };
    let (one, other) = (value(row)?, value(other)?);
    Ok(one.is_some() && one == other)
}

/// Whether a column has another value in one row than in the other, as [`Backend::differs`] says.
pub(crate) fn differs(row: &AnyRow, other: &AnyRow, at: usize) -> Result<bool, sqlx::Error> {
    match (row, other) {
        #[cfg(feature = "sqlite")]
        (AnyRow::Sqlite(row), AnyRow::Sqlite(other)) => sqlx::Sqlite::differs(row, other, at),
        #[cfg(feature = "postgres")]
        (AnyRow::Postgres(row), AnyRow::Postgres(other)) => sqlx::Postgres::differs(row, other, at),
        #[cfg(all(feature = "sqlite", feature = "postgres"))]
        _ => Ok(true),
    }
}

/// A column of a row as the database has sent it, NULL as nothing.
pub(crate) fn bytes(row: &AnyRow, at: usize) -> Result<Option<Vec<u8>>, sqlx::Error> {
    match row {
        #[cfg(feature = "sqlite")]
        AnyRow::Sqlite(row) => sqlx::Row::try_get_unchecked(row, at),
        #[cfg(feature = "postgres")]
        AnyRow::Postgres(row) => {
            let value = sqlx::Row::try_get_raw(row, at)?;
            let is_null = sqlx::ValueRef::is_null(&value);
            let bytes = (!is_null).then(|| value.as_bytes().map(<[u8]>::to_vec));
            bytes.transpose().map_err(sqlx::Error::Decode)
        }
    }
}

/// The first column of a row, as a number.
pub(crate) fn scalar(row: &AnyRow) -> Result<i64, sqlx::Error> {
    match row {
        #[cfg(feature = "sqlite")]
        AnyRow::Sqlite(row) => sqlx::Sqlite::get(row, 0),
        #[cfg(feature = "postgres")]
        AnyRow::Postgres(row) => sqlx::Postgres::get(row, 0),
    }
}
