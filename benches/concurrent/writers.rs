//! What a task of this process writes.

use sqlx_signals::prelude::*;
use sqlx_signals::sqlx;

use crate::database::{CONNECTIONS, Kind, Pool};

#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Plain {
    id: Option<i64>,
    name: String,
    email: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Noted {
    id: Option<i64>,
    name: String,
    email: String,
}

#[derive(Debug, Clone, Model)]
#[model(table = "notes")]
struct Note {
    id: Option<i64>,
    user_id: i64,
}

#[receiver(post_save, sender = Noted)]
async fn note(saved: PostSave<'_, Noted>, conn: &mut Conn<'_>) -> Result<()> {
    Note { id: None, user_id: saved.pk() }.save(conn).await.map(drop)
}

#[derive(Clone, Copy)]
pub(crate) enum Writer {
    SqlxInsert,
    Save,
    SqlxTransaction,
    SaveWithReceiver,
    /// Each task keeps a connection, so it never waits for the pool. At most as many tasks run as the pool has connections.
    SqlxHeld,
}

/// The connection that a task keeps.
pub(crate) enum Held {
    Nothing,
    #[cfg(feature = "postgres")]
    Postgres(sqlx::pool::PoolConnection<sqlx::Postgres>),
}

/// The statements by hand, for the type of a database.
macro_rules! by_hand {
    ($insert:ident, $transaction:ident, $DB:ty) => {
        async fn $insert<'e>(
            executor: impl sqlx::Executor<'e, Database = $DB>,
            task: usize,
        ) -> sqlx::Result<i64> {
            let sql = "INSERT INTO users (name, email) VALUES ($1, $2) RETURNING id";
            let insert = sqlx::query_scalar(sql).bind(name(task)).bind(email(task));
            insert.fetch_one(executor).await
        }

        async fn $transaction(mut tx: sqlx::Transaction<'_, $DB>, task: usize) -> sqlx::Result<()> {
            let id = $insert(&mut *tx, task).await?;
            let sql = "INSERT INTO notes (user_id) VALUES ($1) RETURNING id";
            let _: i64 = sqlx::query_scalar(sql).bind(id).fetch_one(&mut *tx).await?;
            tx.commit().await
        }
    };
}

by_hand!(insert_sqlite, transaction_sqlite, sqlx::Sqlite);
#[cfg(feature = "postgres")]
by_hand!(insert_postgres, transaction_postgres, sqlx::Postgres);

fn name(task: usize) -> String {
    format!("Ann {task}")
}

fn email(task: usize) -> String {
    format!("ann{task}@example.org")
}

impl Writer {
    pub(crate) fn all(kind: Kind) -> Vec<Self> {
        let mut all =
            vec![Self::SqlxInsert, Self::Save, Self::SqlxTransaction, Self::SaveWithReceiver];
        if kind == Kind::Postgres {
            all.push(Self::SqlxHeld);
        }
        all
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SqlxInsert => "sqlx: INSERT",
            Self::Save => "sqlx-signals: save",
            Self::SqlxTransaction => "sqlx: BEGIN, 2 INSERTs, COMMIT",
            Self::SaveWithReceiver => "sqlx-signals: save with a receiver that writes",
            Self::SqlxHeld => "sqlx: BEGIN, 2 INSERTs, COMMIT on held connections",
        }
    }

    /// How many of this many tasks run.
    pub(crate) fn tasks(self, wanted: usize) -> usize {
        match self {
            Self::SqlxHeld => wanted.min(CONNECTIONS as usize),
            _ => wanted,
        }
    }

    pub(crate) async fn hold(self, pool: &Pool) -> Result<Held> {
        match (self, pool) {
            #[cfg(feature = "postgres")]
            (Self::SqlxHeld, Pool::Postgres(pool)) => Ok(Held::Postgres(pool.acquire().await?)),
            _ => Ok(Held::Nothing),
        }
    }

    pub(crate) async fn write(
        self,
        pool: &Pool,
        #[cfg_attr(not(feature = "postgres"), expect(unused_variables))] held: &mut Held,
        db: &Db,
        task: usize,
    ) -> Result<()> {
        #[cfg(feature = "postgres")]
        if let Held::Postgres(conn) = held {
            return Ok(
                transaction_postgres(sqlx::Connection::begin(&mut **conn).await?, task).await?
            );
        }
        match (self, pool) {
            (Self::SqlxHeld, _) => unreachable!("its tasks have a connection"),
            (Self::Save, _) => {
                let mut user = Plain { id: None, name: name(task), email: email(task) };
                user.save(db).await?;
            }
            (Self::SaveWithReceiver, _) => {
                let mut user = Noted { id: None, name: name(task), email: email(task) };
                user.save(db).await?;
            }
            (Self::SqlxInsert, Pool::Sqlite(pool)) => drop(insert_sqlite(pool, task).await?),
            (Self::SqlxTransaction, Pool::Sqlite(pool)) => {
                transaction_sqlite(pool.begin_with("BEGIN IMMEDIATE").await?, task).await?;
            }
            #[cfg(feature = "postgres")]
            (Self::SqlxInsert, Pool::Postgres(pool)) => drop(insert_postgres(pool, task).await?),
            #[cfg(feature = "postgres")]
            (Self::SqlxTransaction, Pool::Postgres(pool)) => {
                transaction_postgres(pool.begin().await?, task).await?;
            }
        }
        Ok(())
    }
}
