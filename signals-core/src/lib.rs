//! The run time of [`sqlx-signals`](https://docs.rs/sqlx-signals), which re-exports all that is public here.
//! Depend on that crate, not on this one.

#[cfg(not(any(feature = "sqlite", feature = "postgres")))]
compile_error!("sqlx-signals needs a database: turn on the feature `sqlite`, `postgres` or both");

mod any;
mod automatic;
mod backend;
mod bulk;
mod cascade;
mod change;
mod check;
mod chunk;
mod clause;
mod column;
mod compose;
mod conn;
mod context;
mod control;
mod custom;
mod db;
mod decode;
mod delete;
mod depth;
mod detached;
mod dispatch;
mod error;
mod executor;
mod facts;
mod field;
mod finish;
mod going;
mod heard;
mod instances;
mod key_order;
mod lender;
mod link;
mod linked;
mod model;
mod mute;
mod observed;
mod options;
mod own_transaction;
mod parameter;
mod previous;
#[doc(hidden)]
pub mod private;
mod query;
mod read;
mod receiver;
mod refused;
mod registry;
mod running;
mod runtimes;
mod save;
mod scope;
mod shapes;
mod signal;
mod sql;
mod state;
mod statements;
mod store;
mod subscriber;
mod table;
pub mod testing;
mod trace;
mod transaction;
mod transaction_closure;
mod unit;
#[cfg(feature = "postgres")]
mod unnamed;
mod verify;
mod write;

pub use any::AnyModel;
pub use automatic::{AutoNow, Version};
pub use backend::DatabaseKind;
pub use column::Column;
pub use conn::Conn;
pub use custom::CustomSignal;
pub use db::Db;
pub use error::{Error, Reason, ReceiverError, Result};
pub use executor::{Connects, Executor};
pub use model::{Key, Model, Saved};
pub use mute::{muted, without_signals};
pub use options::DbOptions;
pub use parameter::{Cx, Parameter, phase};
pub use previous::Previous;
pub use query::Query;
pub use receiver::{Outcome, Phase, Receiver};
pub use registry::{Handle, ReceiverInfo, Receivers, Registry, registry};
pub use signal::{
    Deferrable, PostDelete, PostDeleteBatch, PostLoad, PostSave, PostSaveBatch, PreDelete, PreSave,
    Signal, post_delete, post_delete_batch, post_load, post_save, post_save_batch, pre_delete,
    pre_save,
};
pub use sql::{Row, Sql, Value};
pub use sqlx;
pub use state::State;
pub use store::Portable;
pub use transaction::{Committed, Transaction};
pub use transaction_closure::TransactionClosure;
