//! How an event reaches its durable receivers: it is stored with the write. The layer `durable` implements this.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::database::backend::Statement;
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::error::{Error, Result};
use crate::signal::dispatch::selects;
use crate::signal::erased::{ErasedReceiver, Event};
use crate::signal::operation_context::OperationContext;
use crate::signal::receivers::OperationReceivers;
use crate::signal::rows::{RowEvent, SignalRows};
use crate::table::previous_row::SharedPreviousRow;

/// The content of an event.
#[cfg_attr(not(feature = "durable"), allow(dead_code))]
#[derive(Clone, Copy)]
#[allow(unreachable_pub)]
pub enum EventContent<'e> {
    Rows(&'e dyn SignalRows, &'e RowEvent),
    /// The value of a custom signal. If it was received from another service, the event has an id already.
    Signal(&'e (dyn Any + Send + Sync), Option<u128>),
}

/// An event, and the durable receivers that select it.
#[allow(unreachable_pub)]
pub struct EventToStore<'e> {
    pub content: EventContent<'e>,
    pub created: Option<bool>,
    pub receivers: &'e [&'e ErasedReceiver],
    pub previous: &'e SharedPreviousRow,
    /// The `Db` of the write, if it has one.
    pub db: Option<&'e Db>,
    /// The name of the model or of the custom signal.
    pub model: &'static str,
}

/// The encoded form of an event, which only its [`EventStore`] knows.
#[allow(unreachable_pub)]
pub type EncodedEvent = Box<dyn Any + Send>;

/// Stores the events of durable receivers.
pub trait EventStore: Any + Send + Sync {
    /// Adds the event to the outbox of the connection, which is in a transaction. All durable receivers have the same implementation, so
    /// it is called for one of them and stores the event for all.
    #[doc(hidden)]
    fn add(&self, event: &EventToStore<'_>, conn: &mut Conn<'_>) -> Result<()>;

    /// On PostgreSQL, the deliveries of the event of a single row, to be stored by the statement that writes the row. `None` if they
    /// depend on what only the statement returns.
    #[doc(hidden)]
    fn with_row(
        &self,
        event: &EventToStore<'_>,
        written: &WrittenRow,
    ) -> Result<Option<Box<dyn RowDeliveries>>>;

    /// Encodes an event that may be added to the outbox later. `id` is the id of the event, which is set if it is `None`.
    #[doc(hidden)]
    fn encode(&self, event: &EventToStore<'_>, id: &mut Option<u128>) -> Result<EncodedEvent>;

    /// Adds an event that [`encode`](Self::encode) has returned to the outbox of the connection.
    #[doc(hidden)]
    fn add_encoded(&self, event: EncodedEvent, conn: &mut Conn<'_>);

    /// What is wrong with the tables of the deliveries, for `Db::check`.
    #[doc(hidden)]
    fn check<'c>(&self, conn: &'c mut Conn<'_>) -> BoxFuture<'c, Result<Vec<String>>>;

    /// Whether a delivery depends on the key of the row alone.
    #[doc(hidden)]
    fn stores_only_key(&self) -> bool;

    /// The columns of the model that are stored. Empty for a custom signal.
    #[doc(hidden)]
    fn columns(&self) -> &'static [&'static str];
}

/// What the statement that writes a row returns about it.
#[cfg_attr(not(all(feature = "durable", feature = "postgres")), allow(dead_code))]
#[allow(unreachable_pub)]
pub struct WrittenRow {
    /// The quoted name of the key, if only the database knows the key.
    pub key: Option<&'static str>,
    /// Whether the first column says whether the row is new.
    pub tells_created: bool,
    pub texts: Arc<StoringTexts>,
}

/// Deliveries that are stored by the statement that writes their row.
#[allow(unreachable_pub)]
pub trait RowDeliveries: Send + Sync {
    /// The statement that writes the row, with the deliveries added to it. It returns the same columns, or any column if the
    /// statement returns none.
    fn add_to(&self, statement: Statement) -> Result<Statement, sqlx::Error>;

    /// Says what to run if an error of the statement is about the table of the deliveries.
    fn explained(&self, error: Error) -> Error;

    /// Wakes the workers of the process, after the statement was executed.
    fn stored(&self, db: Option<&Db>);
}

/// The texts of the statements that store deliveries together with their row, by the text of the statement that writes the row alone. The
/// receivers are always the same.
#[cfg_attr(not(all(feature = "durable", feature = "postgres")), allow(dead_code))]
#[derive(Default)]
#[allow(unreachable_pub)]
pub struct StoringTexts(RwLock<BTreeMap<Box<str>, Arc<str>>>);

#[cfg_attr(not(all(feature = "durable", feature = "postgres")), allow(dead_code))]
impl StoringTexts {
    /// The text for the statement `of`. Each is composed once, so that it stays prepared.
    pub(crate) fn get(&self, of: &str, compose: impl FnOnce() -> String) -> SqlStr {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(of).cloned();
        let text = known.unwrap_or_else(|| {
            let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(of.into()).or_insert_with(|| compose().into()))
        });
        AssertSqlSafe(text).into_sql_str()
    }
}

/// How the event of a single row is stored by the statement that writes the row.
pub(crate) enum StoredWithRow {
    /// No durable receiver selects the event.
    Nothing,
    Deliveries(Box<dyn RowDeliveries>),
    /// It can only be stored by a statement of its own.
    Impossible,
}

/// Encodes the event of a row that is not written yet.
///
/// # Errors
///
/// If the event cannot be encoded.
pub(crate) fn with_row(
    event: &dyn Event,
    receivers: &OperationReceivers,
    context: &OperationContext,
    written: &WrittenRow,
) -> Result<StoredWithRow> {
    let created = event.created();
    let is_selected = |receiver: &&ErasedReceiver| {
        written.tells_created || selects(&receiver.info, created, &None)
    };
    let selected: Vec<_> = receivers.durable.iter().filter(is_selected).collect();
    let Some(store) = selected.first().and_then(|receiver| receiver.store()) else {
        return Ok(StoredWithRow::Nothing);
    };
    let content = event.content();
    let (db, (_, model)) = (context.db.as_ref(), context.operation.about());
    let event = EventToStore { content, created, receivers: &selected, previous: &None, db, model };
    let deliveries = store.with_row(&event, written)?;
    Ok(deliveries.map_or(StoredWithRow::Impossible, StoredWithRow::Deliveries))
}

/// Stores an event for those of its durable receivers that select it.
///
/// # Errors
///
/// If the event cannot be encoded, or the outbox was full and could not be written.
pub(crate) async fn store(
    event: &dyn Event,
    receivers: &[ErasedReceiver],
    previous: &SharedPreviousRow,
    context: &OperationContext,
    conn: &mut Conn<'_>,
) -> Result<()> {
    let created = event.created();
    let selected = receivers.iter().filter(|receiver| selects(&receiver.info, created, previous));
    let selected: Vec<_> = selected.collect();
    if let Some(store) = selected.first().and_then(|receiver| receiver.store()) {
        let content = event.content();
        let (db, (_, model)) = (context.db.as_ref(), context.operation.about());
        let event = EventToStore { content, created, receivers: &selected, previous, db, model };
        store.add(&event, conn)?;
    }
    conn.write_full_outbox().await
}
