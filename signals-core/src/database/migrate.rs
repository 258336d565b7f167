//! Runs sqlx's migrations on a [`Db`].

use std::error::Error as StdError;
use std::fmt;

use futures_util::future::BoxFuture;
use sqlx::AssertSqlSafe;
#[cfg(feature = "sqlite")]
use sqlx::migrate::{Migrate, Migration};
use sqlx::migrate::{MigrateError, Migrator};

use crate::database::backend::{Backend, DatabaseKind, on};
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::raw::RawConn;
use crate::database::reconcile::roll_back_all;
use crate::database::sql_scan;
use crate::error::{Error, Result};

impl Db {
    /// Runs the migrations that the database does not have yet, with sqlx's migrator: `db.migrate(&sqlx::migrate!())`.
    ///
    /// The folder of the migrations, its file names, and the table in which sqlx notes what was run are those of
    /// [`sqlx::migrate!`](https://docs.rs/sqlx/0.9/sqlx/macro.migrate.html). Programs that start at the same time run each
    /// migration once; on SQLite, this excludes migrations without a transaction. A program for both databases has a folder for each:
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # use sqlx_signals::{DatabaseKind, sqlx};
    /// use sqlx::migrate::Migrator;
    ///
    /// async fn open(url: &str, sqlite: &Migrator, postgres: &Migrator) -> Result<Db> {
    ///     let db = Db::connect(url).await?;
    ///     db.migrate(match db.kind() {
    ///         DatabaseKind::Sqlite => sqlite, // sqlx::migrate!("migrations/sqlite")
    ///         DatabaseKind::Postgres => postgres, // sqlx::migrate!("migrations/postgres")
    ///     })
    ///     .await?;
    ///     Ok(db)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// The error of the pool, or an [`Error::Other`] that says which migration failed and what to do. Its
    /// [`find::<MigrateError>()`](Error::find) is sqlx's own error.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the migration that is running is rolled back; those before it stay.
    pub async fn migrate(&self, migrator: &Migrator) -> Result<()> {
        let mut conn = self.acquire().await?;
        let settings = settings(&mut conn).await?;
        let may_change_settings = migrator.iter().any(|migration| migration.no_tx);
        // The session of PostgreSQL has the lock of the migrations, which sqlx releases only if they succeed.
        let is_locked = conn.kind() == DatabaseKind::Postgres;
        let mut guard =
            DiscardOnDrop { conn: &mut conn, is_armed: is_locked || may_change_settings };
        let done = run_beside_others(guard.conn, migrator).await;
        guard.is_armed = is_locked && done.is_err();
        drop(guard);
        let mut ended = conn.end_raw(Ok(0)).await.map(drop);
        if let Some(settings) = settings {
            ended = ended.and(restore(&mut conn, settings).await);
        }
        done.map_err(|source| failed(self.kind(), migrator, source))?;
        ended
    }
}

/// Closes the connection if it has the lock of the migrations, or if a migration may have changed its settings.
struct DiscardOnDrop<'a> {
    conn: &'a mut Conn<'static>,
    is_armed: bool,
}

impl Drop for DiscardOnDrop<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.conn.discard();
        }
    }
}

/// The statements that restore the settings of a SQLite connection which migrations change. A migration without a transaction may fail
/// before it does so itself.
async fn settings(conn: &mut Conn<'_>) -> Result<Option<String>> {
    if conn.kind() == DatabaseKind::Postgres {
        return Ok(None);
    }
    let sql = "SELECT foreign_keys, legacy_alter_table FROM pragma_foreign_keys, pragma_legacy_alter_table";
    let (foreign_keys, legacy): (i64, i64) = conn.query(sql).fetch_one().await?;
    Ok(Some(format!("PRAGMA foreign_keys = {foreign_keys}; PRAGMA legacy_alter_table = {legacy}")))
}

/// Restores the settings. If a migration without a transaction has left one open, rolls it back first and returns an error. If
/// something fails, closes the connection.
async fn restore(conn: &mut Conn<'_>, settings: String) -> Result<()> {
    let Some(raw) = conn.raw() else { return Ok(()) };
    let closed = on!(RawConn, raw, DB, conn => {
        let is_open = DB::is_in_transaction(conn).await;
        roll_back_all::<DB>(conn).await.and(is_open)
    });
    let restored = conn.execute(AssertSqlSafe(settings)).await;
    if closed.is_err() || restored.is_err() {
        conn.discard();
    }
    match closed? {
        true => {
            let reason = "a migration began the transaction and did not end it".into();
            Err(Error::RolledBack { reason })
        }
        false => restored.map(drop),
    }
}

/// Runs the migrations. On SQLite, sqlx has no lock against a program that does so at the same time: a migration fails if the other program has
/// run it since sqlx has looked. Then sqlx looks again.
async fn run_beside_others(conn: &mut Conn<'_>, migrator: &Migrator) -> Result<(), MigrateError> {
    loop {
        match run(conn, migrator).await {
            Err(error) if was_run_by_another(conn, migrator, &error).await => {}
            done => return done,
        }
    }
}

/// Whether a migration failed because another program has run it. Its version is then in the table of the migrations, so sqlx does not
/// run it again. Part of a migration without a transaction may be stored, so its own error is returned.
async fn was_run_by_another(
    conn: &mut Conn<'_>,
    #[cfg_attr(not(feature = "sqlite"), expect(unused_variables))] migrator: &Migrator,
    error: &MigrateError,
) -> bool {
    match (error, conn.raw()) {
        // sqlx could not add the version to the table.
        #[cfg(feature = "sqlite")]
        (MigrateError::Execute(sqlx::Error::Database(error)), Some(RawConn::Sqlite(_))) => {
            error.is_unique_violation()
        }
        #[cfg(feature = "sqlite")]
        (MigrateError::ExecuteMigration(_, version), Some(RawConn::Sqlite(conn))) => {
            let has_tx = |migration: &&Migration| {
                migration.migration_type.is_up_migration() && !migration.no_tx
            };
            migrator.iter().filter(has_tx).any(|migration| migration.version == *version)
                && conn
                    .list_applied_migrations(&migrator.table_name)
                    .await
                    .is_ok_and(|applied| applied.iter().any(|one| one.version == *version))
        }
        _ => false,
    }
}

/// Boxed, because the compiler cannot prove that the future of the migrator is `Send` for every lifetime.
fn run<'m>(
    conn: &'m mut Conn<'_>,
    migrator: &'m Migrator,
) -> BoxFuture<'m, Result<(), MigrateError>> {
    conn.before_raw_access();
    match conn.raw() {
        Some(raw) => on!(RawConn, raw, conn => Box::pin(migrator.run_direct(None, conn, false))),
        None => Box::pin(async { Err(sqlx::Error::PoolClosed.into()) }),
    }
}

/// What failed, and what to do.
#[derive(Debug)]
struct Failed {
    text: String,
    source: MigrateError,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Failed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.source)
    }
}

fn failed(kind: DatabaseKind, migrator: &Migrator, source: MigrateError) -> Error {
    let found = |version: &i64| migrator.iter().find(|migration| migration.version == *version);
    let name = |version: &i64| match found(version) {
        Some(migration) => format!("migration {version} ({})", migration.description),
        None => format!("migration {version}"),
    };
    let database = match kind {
        DatabaseKind::Sqlite => "SQLite",
        DatabaseKind::Postgres => "PostgreSQL",
    };
    let text = match &source {
        MigrateError::ExecuteMigration(error, version) => {
            let effect = match found(version) {
                Some(migration) if migration.no_tx => {
                    "part of it may be stored, because it runs without a transaction: undo that part, correct its SQL"
                }
                Some(migration) if sql_scan::find(kind, migration.sql.as_str()).is_some() => {
                    "part of it may be stored, because it ends its transaction itself: undo that part, correct its SQL"
                }
                _ => "nothing of it is stored: correct its SQL",
            };
            format!(
                "{} failed on {database}, and {effect} and migrate again: {error}",
                name(version)
            )
        }
        MigrateError::VersionMismatch(version) => format!(
            "{} was changed after it was applied to this database: restore its file, and put the change into a new migration",
            name(version)
        ),
        MigrateError::VersionMissing(version) => format!(
            "{} was applied to this database, and this program does not contain it: restore its file, or start a program that \
             contains it (`set_ignore_missing(true)` on the migrator ignores this)",
            name(version)
        ),
        MigrateError::Dirty(version) => format!(
            "{} was applied in part: repair the database, and delete the row of this version from the table of the migrations",
            name(version)
        ),
        other => format!("the migrations could not be run on {database}: {other}"),
    };
    Error::Other(Box::new(Failed { text, source }))
}
