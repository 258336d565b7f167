use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::backend::{AnyRow, Arguments, Backend, Sink, Statement};
use crate::conn::Conn;
use crate::context::Call as Operation;
use crate::dispatch::dispatch;
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::instances::{Instances, Of, Telling, Told};
use crate::model::{self, Model};
use crate::store::Route;
use crate::subscriber::Subscriber;
use crate::unit::Scene;

pub(crate) async fn find<M: Model, R: Route<M>>(
    source: Source<'_>,
    key: M::Pk,
) -> Result<Option<M>> {
    let mut args = Arguments::new(source.kind());
    R::bind_key(&key, &mut args).map_err(sqlx::Error::Encode)?;
    let (mut conn, row) = one(source, Statement::fixed(M::STATEMENTS.find, args)).await?;
    let mut row = row.map(|row| R::load(&row, 0)).transpose()?;
    loaded::<M, R>(row.as_mut_slice(), &mut conn).await?;
    Ok(row)
}

/// The row of a statement of at most one, and the connection.
async fn one(source: Source<'_>, statement: Statement) -> Result<(Conn<'_>, Option<AnyRow>)> {
    let mut conn = source.acquire().await?;
    let row = conn.run_one(statement).await?;
    Ok((conn, row))
}

pub(crate) async fn get<M: Model, R: Route<M>>(source: Source<'_>, key: M::Pk) -> Result<M> {
    let row = find::<M, R>(source, key.clone()).await?;
    row.ok_or_else(|| not_found::<M>(Some(&key)))
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
    let mut conn = each(source, statement, &mut |row| rows.add(&row)).await?;
    let mut rows = rows.all()?;
    loaded::<M, R>(&mut rows, &mut conn).await?;
    Ok(rows)
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
pub(crate) async fn loaded<M: Model, R: Route<M>>(
    rows: &mut [M],
    conn: &mut Conn<'_>,
) -> Result<()> {
    match M::__table().heard_load().filter(|_| !rows.is_empty()) {
        Some(receivers) => tell(receivers, &mut Of::<M, R>::new(rows), conn).await,
        None => Ok(()),
    }
}

fn tell<'t>(
    receivers: Arc<Vec<Subscriber>>,
    rows: &'t mut dyn Instances,
    conn: &'t mut Conn<'_>,
) -> BoxFuture<'t, Result<()>> {
    Box::pin(async move {
        let operation = Operation::enter("load", rows.model(), conn.scope.pool())?;
        let scene = Scene { db: conn.scope.db.clone(), operation };
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

/// Collects the rows of a statement as models. The first that does not decode is the result; the statement is read to
/// its end all the same.
pub(crate) struct Rows<M, R> {
    rows: Vec<M>,
    failed: Option<sqlx::Error>,
    only_first: bool,
    route: PhantomData<fn() -> R>,
}

impl<M, R> Default for Rows<M, R> {
    fn default() -> Self {
        Self { rows: Vec::new(), failed: None, only_first: false, route: PhantomData }
    }
}

impl<M: Model, R: Route<M>> Rows<M, R> {
    pub(crate) fn first() -> Self {
        Self { only_first: true, ..Self::default() }
    }

    pub(crate) fn add(&mut self, row: &AnyRow) {
        if self.failed.is_some() || (self.only_first && !self.rows.is_empty()) {
            return;
        }
        match R::load(row, 0) {
            Ok(row) => self.rows.push(row),
            Err(error) => self.failed = Some(error),
        }
    }

    pub(crate) fn all(self) -> Result<Vec<M>> {
        self.failed.map_or(Ok(self.rows), |error| Err(error.into()))
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

/// The first column of a row, as a number.
pub(crate) fn scalar(row: &AnyRow) -> Result<i64, sqlx::Error> {
    match row {
        #[cfg(feature = "sqlite")]
        AnyRow::Sqlite(row) => sqlx::Sqlite::get(row, 0),
        #[cfg(feature = "postgres")]
        AnyRow::Postgres(row) => sqlx::Postgres::get(row, 0),
    }
}
