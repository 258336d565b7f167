//! A statement that sqlx runs, on either database.

use futures_util::TryStreamExt;
#[cfg(feature = "postgres")]
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
#[cfg(feature = "sqlite")]
use sqlx::Sqlite;
use sqlx::{Either, Executor, SqlStr};
#[cfg(feature = "postgres")]
use sqlx::{PgConnection, Postgres, postgres::PgRow};

#[cfg(feature = "postgres")]
use crate::database::backend::AnyRow;
use crate::database::backend::{Arguments, Backend, Sink, Statement};
use crate::database::detached::DetachableStatement;
use crate::database::raw::RawConn;
#[cfg(feature = "postgres")]
use crate::database::unnamed_statement::{self, Unnamed};

/// A statement on its way. What it needs is on sqlx's side, so that the futures around it are small.
pub(crate) enum Execution<'r> {
    #[cfg(feature = "sqlite")]
    Sqlite(Steps<'r, Sqlite>),
    #[cfg(feature = "postgres")]
    Postgres(Steps<'r, Postgres>),
    #[cfg(feature = "postgres")]
    PostgresOne(BoxFuture<'r, Result<Option<PgRow>, sqlx::Error>>),
    #[cfg(feature = "postgres")]
    PostgresUnnamed(&'r mut PgConnection, Box<Unnamed>),
    /// It goes on where this is dropped.
    DetachableStatement(DetachableStatement<'r>),
    /// There is no connection any more.
    NoConnection,
}

/// How statements are prepared on a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// Under a name, and kept in the cache of the connection.
    Named,
    /// Without a name, and in a transaction. `asks`: whether to ask the server for one of the program's.
    Unnamed {
        #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
        asks: bool,
    },
}

/// The rows of a statement, and at the end of it what it has affected.
type Steps<'r, DB> = BoxStream<'r, Result<Either<Done<DB>, Row<DB>>, sqlx::Error>>;
type Done<DB> = <DB as sqlx::Database>::QueryResult;
type Row<DB> = <DB as sqlx::Database>::Row;

impl<'r> Execution<'r> {
    /// Of at most `one` row, a statement is cheaper on Postgres; sqlx reads to the end of it as well.
    pub(crate) fn new(
        raw: Option<RawConn<'r>>,
        statement: Statement,
        #[cfg_attr(not(feature = "postgres"), expect(unused_variables))] one: bool,
        #[cfg_attr(not(feature = "postgres"), expect(unused_variables))] naming: Naming,
    ) -> Self {
        let Some(raw) = raw else { return Self::NoConnection };
        let Statement { sql, args, persistent } = statement;
        match (raw, args) {
            #[cfg(feature = "sqlite")]
            (RawConn::Sqlite(conn), Arguments::Sqlite(args)) => {
                Self::Sqlite(conn.fetch_many(sqlx::query_with(sql, args).persistent(persistent)))
            }
            #[cfg(feature = "postgres")]
            (RawConn::Postgres(conn), Arguments::Postgres(args)) => {
                if let Naming::Unnamed { asks } = naming {
                    return Self::PostgresUnnamed(conn, Box::new(Unnamed { sql, args, asks }));
                }
                let query = sqlx::query_with(sql, args).persistent(persistent);
                match one {
                    true => Self::PostgresOne(conn.fetch_optional(query)),
                    false => Self::Postgres(conn.fetch_many(query)),
                }
            }
            #[cfg(all(feature = "sqlite", feature = "postgres"))]
            _ => unreachable!("the arguments are made for the connection"),
        }
    }

    /// Of SQL as it stands, without arguments.
    pub(crate) fn plain(raw: Option<RawConn<'r>>, sql: SqlStr) -> Self {
        match raw {
            None => Self::NoConnection,
            #[cfg(feature = "sqlite")]
            Some(RawConn::Sqlite(conn)) => Self::Sqlite(conn.fetch_many(sqlx::raw_sql(sql))),
            #[cfg(feature = "postgres")]
            Some(RawConn::Postgres(conn)) => Self::Postgres(conn.fetch_many(sqlx::raw_sql(sql))),
        }
    }

    /// Gives every row to `sink`, and returns how many were affected.
    ///
    /// To its end even where one row is all that is wanted: an autocommit INSERT … RETURNING on SQLite is committed
    /// when the statement is through, and who leaves after the row never hears that the commit failed.
    pub(crate) async fn run_to_end(self, sink: Sink<'_>) -> Result<u64, sqlx::Error> {
        self.run_noting_answer(sink, &mut false).await
    }

    /// As [`end`](Self::end). `answered` becomes true with the first row, and with the server's word that the statement is
    /// through, also if an error comes after that; of [`PostgresOne`](Self::PostgresOne) only if there is none.
    pub(crate) async fn run_noting_answer(
        self,
        sink: Sink<'_>,
        answered: &mut bool,
    ) -> Result<u64, sqlx::Error> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(steps) => drain::<Sqlite>(steps, sink, answered).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(steps) => drain::<Postgres>(steps, sink, answered).await,
            #[cfg(feature = "postgres")]
            Self::PostgresOne(row) => {
                let row = row.await?.map(AnyRow::Postgres);
                *answered = true;
                let found = u64::from(row.is_some());
                row.into_iter().for_each(sink);
                Ok(found)
            }
            #[cfg(feature = "postgres")]
            Self::PostgresUnnamed(conn, statement) => {
                Box::pin(unnamed_statement::run(conn, *statement, sink, answered)).await
            }
            Self::DetachableStatement(going) => {
                let answer = going.await?;
                answer.rows.into_iter().for_each(sink);
                Ok(answer.affected)
            }
            Self::NoConnection => Err(sqlx::Error::PoolClosed),
        }
    }
}

pub(crate) async fn drain<DB: Backend>(
    mut steps: Steps<'_, DB>,
    sink: Sink<'_>,
    answered: &mut bool,
) -> Result<u64, sqlx::Error> {
    let mut affected = 0;
    while let Some(step) = steps.try_next().await? {
        *answered = true;
        match step {
            Either::Left(done) => affected += DB::affected(&done),
            Either::Right(row) => sink(DB::any_row(row)),
        }
    }
    Ok(affected)
}
