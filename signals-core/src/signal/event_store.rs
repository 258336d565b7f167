//! How an event reaches its durable receivers: it is stored with the write. The layer `durable` implements this.

use std::any::Any;

use futures_util::future::BoxFuture;

use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::error::Result;
use crate::signal::dispatch::selects;
use crate::signal::erased::{ErasedReceiver, Event};
use crate::signal::operation_context::OperationContext;
use crate::signal::rows::{RowEvent, SignalRows};
use crate::table::previous_row::SharedPreviousRow;

/// The content of an event.
#[cfg_attr(not(feature = "durable"), allow(dead_code))]
#[derive(Clone, Copy)]
#[allow(unreachable_pub)]
pub enum EventContent<'e> {
    Rows(&'e dyn SignalRows, &'e RowEvent),
    /// The value of a custom signal.
    Signal(&'e (dyn Any + Send + Sync)),
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

/// Stores the events of durable receivers.
pub trait EventStore: Any + Send + Sync {
    /// Adds the event to the outbox of the connection, which is in a transaction. All durable receivers have the same implementation, so
    /// it is called for one of them and stores the event for all.
    #[doc(hidden)]
    fn add(&self, event: &EventToStore<'_>, conn: &mut Conn<'_>) -> Result<()>;

    /// What is wrong with the tables of the deliveries, for `Db::check`.
    #[doc(hidden)]
    fn check<'c>(&self, conn: &'c mut Conn<'_>) -> BoxFuture<'c, Result<Vec<String>>>;

    /// The columns of the model that are stored. Empty for a custom signal.
    #[doc(hidden)]
    fn columns(&self) -> &'static [&'static str];
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
