//! The run time of [`sqlx-signals`](https://docs.rs/sqlx-signals), which re-exports all public items of this crate.
//! Depend on that crate, not on this one.

#[cfg(not(any(feature = "sqlite", feature = "postgres")))]
compile_error!("sqlx-signals needs a database: turn on the feature `sqlite`, `postgres` or both");

#[cfg(feature = "axum")]
pub mod axum;
mod database;
#[cfg(feature = "durable")]
pub mod durable;
mod error;
mod model;
#[doc(hidden)]
pub mod private;
mod signal;
mod table;
mod task;
pub mod testing;
mod transaction;
mod write;

pub use database::backend::DatabaseKind;
pub use database::begin::{Isolation, TransactionOptions};
pub use database::conn::Conn;
pub use database::db::Db;
pub use database::options::DbOptions;
pub use database::source::Connects;
pub use database::sql::{RawQuery, Row, Value};
pub use error::{Error, Outcome, Reason, ReceiverError, Result};
pub use model::belongs_to::{BelongsTo, Parents};
pub use model::binds::{Argument, ArgumentList};
pub use model::executor::Executor;
pub use model::query::Query;
pub use model::store::Portable;
pub use model::{Key, Model};
pub use signal::custom::CustomSignal;
pub use signal::parameter::{Context, Parameter, phase};
pub use signal::previous::Previous;
pub use signal::registry::{Handle, ReceiverInfo, Receivers, Registry, registry};
pub use signal::state::State;
pub use signal::{
    Deferrable, PostDelete, PostDeleteBatch, PostLoad, PostSave, PostSaveBatch, PreDelete, PreSave,
    Signal, Subject, post_delete, post_delete_batch, post_load, post_save, post_save_batch,
    pre_delete, pre_save,
};
pub use sqlx;
pub use table::any::AnyModel;
pub use table::automatic::{AutoNow, Version};
pub use table::column::Column;
pub use task::info::{Phase, Receiver};
pub use task::mute::{muted, without_signals};
pub use transaction::closure::{RepeatableClosure, TransactionClosure};
pub use transaction::retry::Retry;
pub use transaction::{Committed, Transaction};
pub use write::Saved;
