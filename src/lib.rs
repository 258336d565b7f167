//! stub
#[doc(hidden)]
pub use sqlx_signals_core::private as __private;
pub use sqlx_signals_core::{
    Column, Committed, Conn, DatabaseKind, Db, Deferrable, Error, Executor, Key, Model, Outcome,
    Parameter, Phase, Portable, PostDelete, PostSave, PreDelete, PreSave, Query, Receiver,
    ReceiverError, ReceiverInfo, Registry, Result, Row, Saved, Signal, Sql, Transaction, Value,
    phase, post_delete, post_save, pre_delete, pre_save, registry, sqlx,
};
pub use sqlx_signals_derive::{Model, receiver};

/// prelude
pub mod prelude {
    pub use crate::{
        Conn, Db, Model, PostDelete, PostSave, PreDelete, PreSave, Result, Saved, Transaction,
        post_delete, post_save, pre_delete, pre_save, receiver,
    };
}
