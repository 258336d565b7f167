//! One connection to SQLite or PostgreSQL: where it comes from, one statement on it, and the state of its transaction. This layer
//! knows no models and no signals.
//!
//! May import: `error`, `task`.

pub(crate) mod backend;
pub(crate) mod begin;
pub(crate) mod changes;
pub(crate) mod conn;
pub(crate) mod connect;
mod counted;
pub(crate) mod db;
pub(crate) mod decode;
pub(crate) mod default_db;
pub(crate) mod deferred;
pub(crate) mod detached;
pub(crate) mod execution;
mod gauges;
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
pub(crate) mod group;
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
mod group_task;
pub(crate) mod lease;
#[cfg(feature = "migrate")]
pub(crate) mod migrate;
pub(crate) mod options;
pub(crate) mod outbox;
pub(crate) mod placeholders;
pub(crate) mod pool;
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
pub(crate) mod queued_statement;
pub(crate) mod raw;
pub(crate) mod reconcile;
pub(crate) mod run;
pub(crate) mod runtimes;
pub(crate) mod schema_cache;
pub(crate) mod sent_statements;
pub(crate) mod slow_writers;
pub(crate) mod source;
mod spin;
pub(crate) mod sql;
pub(crate) mod sql_scan;
pub(crate) mod sql_tokens;
pub(crate) mod sqlx_transaction;
pub(crate) mod state;
pub(crate) mod stream;
pub(crate) mod turn;
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
pub(crate) mod unit;
#[cfg(feature = "postgres")]
pub(crate) mod unnamed_statement;
pub(crate) mod values;
pub(crate) mod verify;
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
pub(crate) mod waiter;
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
pub(crate) mod write_queue;
#[cfg(feature = "sqlite")]
pub(crate) mod write_queues;
pub(crate) mod write_turn;
#[cfg_attr(not(feature = "sqlite"), allow(dead_code))]
pub(crate) mod writer;
