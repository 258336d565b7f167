//! One statement that sqlx executes, on either database.

use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
#[cfg(feature = "sqlite")]
use sqlx::Sqlite;
use sqlx::{Either, Executor, SqlStr};
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, Postgres};

use tokio::sync::mpsc::Sender;

use crate::database::backend::{AnyRow, Arguments, Backend, Sink, Statement};
use crate::database::detached::DetachableStatement;
use crate::database::raw::RawConn;
#[cfg(feature = "postgres")]
use crate::database::unnamed_statement::{self, Unnamed};

/// A statement that is being executed. Its state is boxed by sqlx, so that the futures that contain it are small.
pub(crate) enum Execution<'r> {
    /// With whether it is a single statement.
    #[cfg(feature = "sqlite")]
    Sqlite(Steps<'r, Sqlite>, bool),
    #[cfg(feature = "sqlite")]
    SqliteOne(FirstRow<'r, Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(Steps<'r, Postgres>),
    #[cfg(feature = "postgres")]
    PostgresOne(FirstRow<'r, Postgres>),
    #[cfg(feature = "postgres")]
    PostgresUnnamed(&'r mut PgConnection, Box<Unnamed>),
    /// The statement keeps running if this value is dropped.
    DetachableStatement(DetachableStatement<'r>),
    /// The connection was lost.
    NoConnection,
}

/// Whether prepared statements on a connection get a name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// Statements are named, and kept in the statement cache of the connection.
    Named,
    /// Statements are unnamed, and each runs in a transaction. `asks`: whether to ask the server first if a transaction is open
    /// that sqlx does not count. `is_first`: whether sqlx may not know the types of the statement, see [`SentStatements`].
    ///
    /// [`SentStatements`]: crate::database::sent_statements::SentStatements
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    Unnamed { asks: bool, is_first: bool },
}

/// What a statement returns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returns {
    Rows,
    /// At most one.
    OneRow,
    /// At most one, and the statement commits no write, so that no error can follow the row.
    OneRowWithoutCommit,
}

/// The rows of a statement, and its number of affected rows at the end.
type Steps<'r, DB> = BoxStream<'r, Result<Either<Done<DB>, Row<DB>>, sqlx::Error>>;
type FirstRow<'r, DB> = BoxFuture<'r, Result<Option<Row<DB>>, sqlx::Error>>;
type Done<DB> = <DB as sqlx::Database>::QueryResult;
type Row<DB> = <DB as sqlx::Database>::Row;

impl<'r> Execution<'r> {
    /// For a statement of at most one row, a cheaper call is used. On PostgreSQL, sqlx reads to the end of the statement there too. On SQLite,
    /// sqlx resets the statement after the row. All changes are made by then, see "Processing Order" in
    /// <https://sqlite.org/lang_returning.html>, but an error of the commit would be lost, so it is used only if the statement does not commit.
    pub(crate) fn new(
        raw: Option<RawConn<'r>>,
        statement: Statement,
        returns: Returns,
        #[cfg_attr(not(feature = "postgres"), expect(unused_variables))] naming: Naming,
    ) -> Self {
        let Some(raw) = raw else { return Self::NoConnection };
        #[cfg(feature = "sqlite")]
        let is_single = statement.is_single;
        let Statement { sql, args, persistent, .. } = statement;
        match (raw, args) {
            #[cfg(feature = "sqlite")]
            (RawConn::Sqlite(conn), Arguments::Sqlite(args)) => {
                let query = sqlx::query_with(sql, args).persistent(persistent);
                match is_single && returns == Returns::OneRowWithoutCommit {
                    true => Self::SqliteOne(conn.fetch_optional(query)),
                    false => Self::Sqlite(conn.fetch_many(query), is_single),
                }
            }
            #[cfg(feature = "postgres")]
            (RawConn::Postgres(conn), Arguments::Postgres(args)) => {
                if let Naming::Unnamed { asks, is_first } = naming {
                    let unnamed = Unnamed { sql, args, asks, is_first };
                    return Self::PostgresUnnamed(conn, Box::new(unnamed));
                }
                let query = sqlx::query_with(sql, args).persistent(persistent);
                match returns {
                    Returns::Rows => Self::Postgres(conn.fetch_many(query)),
                    _ => Self::PostgresOne(conn.fetch_optional(query)),
                }
            }
            #[cfg(all(feature = "sqlite", feature = "postgres"))]
            _ => unreachable!("the arguments are made for the connection"),
        }
    }

    /// Executes SQL without arguments, unprepared.
    pub(crate) fn plain(raw: Option<RawConn<'r>>, sql: SqlStr) -> Self {
        match raw {
            None => Self::NoConnection,
            #[cfg(feature = "sqlite")]
            Some(RawConn::Sqlite(conn)) => Self::Sqlite(conn.fetch_many(sqlx::raw_sql(sql)), false),
            #[cfg(feature = "postgres")]
            Some(RawConn::Postgres(conn)) => Self::Postgres(conn.fetch_many(sqlx::raw_sql(sql))),
        }
    }

    /// Passes every row to `sink`, and returns the number of affected rows.
    ///
    /// Reads to the end, except for [`OneRowWithoutCommit`](Returns::OneRowWithoutCommit): SQLite commits an autocommit
    /// INSERT … RETURNING at the end of the statement, so a caller that stops after the row would miss an error of the commit.
    pub(crate) async fn run_to_end(self, sink: Sink<'_>) -> Result<u64, sqlx::Error> {
        self.run_noting_answer(sink, &mut false).await
    }

    /// As [`run_to_end`](Self::run_to_end), and sets `answered` when the first row or the completion of the statement arrives,
    /// also if an error follows. If the cheaper call for one row is used, `answered` is only set if there is no error. An unnamed
    /// statement sets it before its COMMIT.
    pub(crate) async fn run_noting_answer(
        self,
        sink: Sink<'_>,
        answered: &mut bool,
    ) -> Result<u64, sqlx::Error> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(steps, is_single) => {
                drain::<Sqlite>(steps, is_single, sink, answered).await
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(steps) => drain::<Postgres>(steps, false, sink, answered).await,
            #[cfg(feature = "sqlite")]
            Self::SqliteOne(row) => first_row::<Sqlite>(row.await?, sink, answered),
            #[cfg(feature = "postgres")]
            Self::PostgresOne(row) => first_row::<Postgres>(row.await?, sink, answered),
            #[cfg(feature = "postgres")]
            Self::PostgresUnnamed(conn, statement) => {
                Box::pin(unnamed_statement::run(conn, *statement, sink, answered)).await
            }
            Self::DetachableStatement(statement) => {
                let (done, has_answered) = statement.await;
                *answered = has_answered;
                let answer = done?;
                answer.rows.into_iter().for_each(sink);
                Ok(answer.affected)
            }
            Self::NoConnection => Err(sqlx::Error::PoolClosed),
        }
    }
}

impl Execution<'_> {
    /// Passes every row to `sink`, and the number of affected rows of each statement when it has ended.
    pub(crate) async fn run_each(
        self,
        sink: &mut (dyn FnMut(Either<u64, AnyRow>) + Send),
    ) -> Result<(), sqlx::Error> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(mut steps, _) => {
                while let Some(step) = steps.try_next().await? {
                    sink(step.map_either(|done| Sqlite::affected(&done), AnyRow::Sqlite));
                }
                Ok(())
            }
            other => {
                let affected = other.run_to_end(&mut |row| sink(Either::Right(row))).await?;
                sink(Either::Left(affected));
                Ok(())
            }
        }
    }

    /// Passes each row to `sender`, waiting until it is received. `sent` is set when the first row has arrived.
    ///
    /// Without a statement cache, the statement runs in a transaction, and all rows are read first.
    pub(crate) async fn pass_to(
        self,
        sender: &Sender<crate::error::Result<AnyRow>>,
        sent: &mut bool,
    ) -> Result<(), sqlx::Error> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(steps, _) => pass_each::<Sqlite>(steps, sender, sent).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(steps) => pass_each::<Postgres>(steps, sender, sent).await,
            other => {
                let mut rows = Vec::new();
                other.run_to_end(&mut |row| rows.push(row)).await?;
                for row in rows {
                    *sent = true;
                    let _ = sender.send(Ok(row)).await;
                }
                Ok(())
            }
        }
    }
}

async fn pass_each<DB: Backend>(
    mut steps: Steps<'_, DB>,
    sender: &Sender<crate::error::Result<AnyRow>>,
    sent: &mut bool,
) -> Result<(), sqlx::Error> {
    while let Some(step) = steps.try_next().await? {
        if let Either::Right(row) = step {
            *sent = true;
            // The receiver is dropped together with this future.
            let _ = sender.send(Ok(DB::any_row(row))).await;
        }
    }
    Ok(())
}

/// Passes the row to `sink`, and returns how many rows there are: 0 or 1.
fn first_row<DB: Backend>(
    row: Option<Row<DB>>,
    sink: Sink<'_>,
    answered: &mut bool,
) -> Result<u64, sqlx::Error> {
    *answered = true;
    let found = u64::from(row.is_some());
    row.map(DB::any_row).into_iter().for_each(sink);
    Ok(found)
}

/// The result of a write. If neither a row nor the completion has arrived, the thread of a SQLite connection has panicked, see
/// [`drain`].
pub(crate) fn if_answered(
    result: Result<u64, sqlx::Error>,
    answered: bool,
) -> Result<u64, sqlx::Error> {
    if answered || result.is_err() { result } else { Err(sqlx::Error::WorkerCrashed) }
}

/// Passes every row to `sink`, and returns the number of affected rows. `ends_with_result`: whether nothing can follow the number of
/// affected rows, neither another statement nor an error of the commit. On SQLite, a single statement has committed by then, and to wait
/// until the thread of the connection is idle again would take another change of threads.
///
/// If the thread of a SQLite connection panics, sqlx ends the rows as if the statement had ended.
pub(crate) async fn drain<DB: Backend>(
    mut steps: Steps<'_, DB>,
    ends_with_result: bool,
    sink: Sink<'_>,
    answered: &mut bool,
) -> Result<u64, sqlx::Error> {
    let (mut affected, mut is_complete) = (0, !ends_with_result);
    while let Some(step) = steps.try_next().await? {
        *answered = true;
        is_complete = step.is_left();
        match step {
            Either::Right(row) => sink(DB::any_row(row)),
            Either::Left(result) => {
                affected += DB::affected(&result);
                if ends_with_result {
                    break;
                }
            }
        }
    }
    if is_complete { Ok(affected) } else { Err(sqlx::Error::WorkerCrashed) }
}
