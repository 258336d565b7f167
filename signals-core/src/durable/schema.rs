//! The tables of the deliveries, and their versions.

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::durable::sql::Sql;
use crate::error::{Error, Result};

/// A change of the tables of the deliveries.
///
/// ```
/// use sqlx_signals::{DatabaseKind, durable};
///
/// for migration in durable::migrations(DatabaseKind::Postgres) {
///     println!("-- version {}\n{}", migration.version, migration.sql);
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// The version of the tables after this change. The first one is 1.
    pub version: i32,
    /// The statements of the change. The last one records the version in `signals_schema`.
    pub sql: &'static str,
}

const SQLITE: &[Migration] = &[
    Migration { version: 1, sql: SQLITE_1 },
    Migration { version: 2, sql: SQLITE_2 },
    Migration { version: 3, sql: SQLITE_3 },
];
const POSTGRES: &[Migration] = &[
    Migration { version: 1, sql: POSTGRES_1 },
    Migration { version: 2, sql: POSTGRES_2 },
    Migration { version: 3, sql: POSTGRES_3 },
];

/// The version of the tables that this program needs.
pub(super) const VERSION: i32 = 3;

/// The changes that create the tables of the deliveries, in their order. A program of the previous version works with the newest tables, so the
/// tables are changed before the programs are replaced.
///
/// They are for a program that runs all changes of its database as
/// migrations of its own. It runs each of them once. Other programs call [`Deliveries::setup`](super::Deliveries::setup), which executes the
/// same SQL.
///
/// See the example of [`Migration`].
pub fn migrations(kind: DatabaseKind) -> &'static [Migration] {
    match kind {
        DatabaseKind::Sqlite => SQLITE,
        DatabaseKind::Postgres => POSTGRES,
    }
}

/// Applies the missing migrations.
pub(super) async fn setup(db: &Db) -> Result<()> {
    let mut tx = db.begin().await?;
    if tx.kind() == DatabaseKind::Postgres {
        // Two processes that start at the same time must not both create the tables. The number is only the name of the lock.
        let lock = Sql::new(tx.kind(), "SELECT pg_advisory_xact_lock(7238147261843)::text");
        lock.fetch::<(Option<String>,)>(&mut tx).await?;
    }
    let found = version(&mut tx).await?;
    for migration in migrations(tx.kind()) {
        if migration.version > found {
            tx.execute(migration.sql).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// The version of the tables; 0 if they do not exist.
pub(super) async fn version(conn: &mut Conn<'_>) -> Result<i32> {
    let kind = conn.kind();
    let exists = match kind {
        DatabaseKind::Sqlite => {
            "SELECT CAST(count(1) AS INTEGER) FROM sqlite_schema WHERE type = 'table' AND name = 'signals_schema'"
        }
        DatabaseKind::Postgres => "SELECT count(to_regclass('signals_schema'))",
    };
    let exists: Vec<(i64,)> = Sql::new(kind, exists).fetch(conn).await?;
    if exists.first().is_none_or(|(tables,)| *tables == 0) {
        return Ok(0);
    }
    let version = "SELECT coalesce(max(version), 0) FROM signals_schema";
    let version: Vec<(i32,)> = Sql::new(kind, version).fetch(conn).await?;
    Ok(version.first().map_or(0, |(version,)| *version))
}

/// Checks that the tables are not older than this program needs.
///
/// # Errors
///
/// [`Error::DeliveriesNotSetUp`] if they are, or if they do not exist.
pub(super) async fn check(conn: &mut Conn<'_>) -> Result<()> {
    let found = version(conn).await?;
    if found >= VERSION {
        return Ok(());
    }
    Err(Error::DeliveriesNotSetUp { found, needed: VERSION })
}

/// Says what to run if an error is about a missing table.
pub(super) fn explained(error: Error) -> Error {
    let is_missing = match &error {
        Error::Database(sqlx::Error::Database(error)) => {
            let is_table = error.code().is_some_and(|code| code == "42P01")
                || error.message().contains("no such table");
            is_table
                && ["signals_delivery", "signals_inbox"]
                    .iter()
                    .any(|table| error.message().contains(table))
        }
        _ => false,
    };
    if is_missing { Error::DeliveriesNotSetUp { found: 0, needed: VERSION } } else { error }
}

const POSTGRES_1: &str = "\
CREATE TABLE signals_schema (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE signals_delivery (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event        uuid        NOT NULL,
    receiver     text        NOT NULL,
    signal       text        NOT NULL,
    sender       text        NOT NULL,
    key          text,
    created      boolean,
    payload      json        NOT NULL,
    context      json,
    ordering_key text,
    coalesce_key text,
    stored_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempt      integer     NOT NULL DEFAULT 0,
    claim        bigint      NOT NULL DEFAULT 0,
    lost         integer     NOT NULL DEFAULT 0,
    worker       text,
    error        text,
    dead_at      timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX signals_delivery_due ON signals_delivery (receiver, run_at, id) WHERE dead_at IS NULL AND ordering_key IS NULL;
CREATE INDEX signals_delivery_ordered ON signals_delivery (receiver, ordering_key, id) WHERE ordering_key IS NOT NULL;
CREATE UNIQUE INDEX signals_delivery_running ON signals_delivery (receiver, ordering_key) WHERE worker IS NOT NULL AND ordering_key IS NOT NULL;
CREATE UNIQUE INDEX signals_delivery_coalesced ON signals_delivery (receiver, coalesce_key) WHERE coalesce_key IS NOT NULL AND claim = 0;
CREATE INDEX signals_delivery_dead ON signals_delivery (receiver, id) WHERE dead_at IS NOT NULL;
CREATE INDEX signals_delivery_all_dead ON signals_delivery (id) WHERE dead_at IS NOT NULL;
CREATE INDEX signals_delivery_failing ON signals_delivery (receiver, run_at, id) WHERE dead_at IS NULL AND error IS NOT NULL;
INSERT INTO signals_schema (version) VALUES (1);
";

/// Kept deliveries, and an index for the list of failing deliveries.
const POSTGRES_2: &str = "\
CREATE TABLE signals_done (
    id           bigint PRIMARY KEY,
    event        uuid        NOT NULL,
    receiver     text        NOT NULL,
    signal       text        NOT NULL,
    sender       text        NOT NULL,
    key          text,
    created      boolean,
    payload      json        NOT NULL,
    context      json,
    ordering_key text,
    coalesce_key text,
    stored_at    timestamptz NOT NULL,
    run_at       timestamptz NOT NULL,
    attempt      integer     NOT NULL,
    claim        bigint      NOT NULL,
    lost         integer     NOT NULL,
    worker       text,
    error        text,
    dead_at      timestamptz,
    done_at      timestamptz NOT NULL,
    keep_until   timestamptz NOT NULL
);
CREATE INDEX signals_done_of_receiver ON signals_done (receiver, id);
CREATE INDEX signals_done_old ON signals_done (keep_until);
CREATE INDEX signals_delivery_all_failing ON signals_delivery (id) WHERE dead_at IS NULL AND error IS NOT NULL;
CREATE INDEX signals_delivery_died ON signals_delivery (dead_at) WHERE dead_at IS NOT NULL;
INSERT INTO signals_schema (version) VALUES (2);
";

/// The ids of the messages of other services.
const POSTGRES_3: &str = "\
CREATE TABLE signals_inbox (
    source      text        NOT NULL,
    event       text        NOT NULL,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (source, event)
);
CREATE INDEX signals_inbox_old ON signals_inbox (received_at);
INSERT INTO signals_schema (version) VALUES (3);
";

const SQLITE_1: &str = "\
CREATE TABLE signals_schema (version INTEGER PRIMARY KEY, applied_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER))) STRICT;
CREATE TABLE signals_delivery (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    event        TEXT    NOT NULL,
    receiver     TEXT    NOT NULL,
    signal       TEXT    NOT NULL,
    sender       TEXT    NOT NULL,
    key          TEXT,
    created      INTEGER,
    payload      TEXT    NOT NULL,
    context      TEXT,
    ordering_key TEXT,
    coalesce_key TEXT,
    stored_at    INTEGER NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)),
    run_at       INTEGER NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)),
    attempt      INTEGER NOT NULL DEFAULT 0,
    claim        INTEGER NOT NULL DEFAULT 0,
    lost         INTEGER NOT NULL DEFAULT 0,
    worker       TEXT,
    error        TEXT,
    dead_at      INTEGER
) STRICT;
CREATE INDEX signals_delivery_due ON signals_delivery (receiver, run_at, id) WHERE dead_at IS NULL AND ordering_key IS NULL;
CREATE INDEX signals_delivery_ordered ON signals_delivery (receiver, ordering_key, id) WHERE ordering_key IS NOT NULL;
CREATE UNIQUE INDEX signals_delivery_running ON signals_delivery (receiver, ordering_key) WHERE worker IS NOT NULL AND ordering_key IS NOT NULL;
CREATE UNIQUE INDEX signals_delivery_coalesced ON signals_delivery (receiver, coalesce_key) WHERE coalesce_key IS NOT NULL AND claim = 0;
CREATE INDEX signals_delivery_dead ON signals_delivery (receiver, id) WHERE dead_at IS NOT NULL;
CREATE INDEX signals_delivery_all_dead ON signals_delivery (id) WHERE dead_at IS NOT NULL;
CREATE INDEX signals_delivery_failing ON signals_delivery (receiver, run_at, id) WHERE dead_at IS NULL AND error IS NOT NULL;
INSERT INTO signals_schema (version) VALUES (1);
";

/// The same, and an index for the list of running deliveries. PostgreSQL does not get it, because it would make every claim slower.
const SQLITE_2: &str = "\
CREATE TABLE signals_done (
    id           INTEGER PRIMARY KEY,
    event        TEXT    NOT NULL,
    receiver     TEXT    NOT NULL,
    signal       TEXT    NOT NULL,
    sender       TEXT    NOT NULL,
    key          TEXT,
    created      INTEGER,
    payload      TEXT    NOT NULL,
    context      TEXT,
    ordering_key TEXT,
    coalesce_key TEXT,
    stored_at    INTEGER NOT NULL,
    run_at       INTEGER NOT NULL,
    attempt      INTEGER NOT NULL,
    claim        INTEGER NOT NULL,
    lost         INTEGER NOT NULL,
    worker       TEXT,
    error        TEXT,
    dead_at      INTEGER,
    done_at      INTEGER NOT NULL,
    keep_until   INTEGER NOT NULL
) STRICT;
CREATE INDEX signals_done_of_receiver ON signals_done (receiver, id);
CREATE INDEX signals_done_old ON signals_done (keep_until);
CREATE INDEX signals_delivery_claimed ON signals_delivery (id) WHERE worker IS NOT NULL;
CREATE INDEX signals_delivery_all_failing ON signals_delivery (id) WHERE dead_at IS NULL AND error IS NOT NULL;
CREATE INDEX signals_delivery_died ON signals_delivery (dead_at) WHERE dead_at IS NOT NULL;
INSERT INTO signals_schema (version) VALUES (2);
";

const SQLITE_3: &str = "\
CREATE TABLE signals_inbox (
    source      TEXT    NOT NULL,
    event       TEXT    NOT NULL,
    received_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)),
    PRIMARY KEY (source, event)
) STRICT, WITHOUT ROWID;
CREATE INDEX signals_inbox_old ON signals_inbox (received_at);
INSERT INTO signals_schema (version) VALUES (3);
";
