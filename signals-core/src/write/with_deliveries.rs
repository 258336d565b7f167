//! On PostgreSQL, writes one row and stores its deliveries in the same statement, which commits itself.

use futures_util::future::BoxFuture;

use crate::database::conn::Conn;
use crate::database::state::Autocommit;
use crate::error::{Error, Result};
use crate::signal::event_store::{self, RowDeliveries, StoredWithRow, WrittenRow};
use crate::signal::operation_context::OperationContext;
use crate::signal::rows::{RowEvent, RowsEvent, SignalRows};
use crate::table::schema::ColumnGroup;
use crate::write::delete::{self, delete_one, deleted, not_deleted};
use crate::write::lookup::not_found;
use crate::write::notify::Notifier;
use crate::write::save::stamp;
use crate::write::single::Single;
use crate::write::{WriteKind, WriteOutcome, arbiter, inspect};

/// Writes the single row in `rows`. If one statement is not sufficient, the write has to be repeated in a transaction.
pub(super) fn execute<'w>(
    notifier: &'w Notifier,
    rows: &'w mut dyn SignalRows,
    conn: &'w mut Conn<'_>,
    context: &'w OperationContext,
) -> BoxFuture<'w, Result<WriteOutcome>> {
    Box::pin(async move {
        // In a transaction of sqlx, a write that the database refuses cannot be repeated.
        let is_certain = !conn.is_borrowed() || inspect::stores_every_row(conn, rows).await?;
        let done = match &notifier.kind {
            _ if !is_certain => Ok(None),
            WriteKind::Delete => delete(notifier, rows, conn, context).await,
            kind => save(notifier, kind, rows, conn, context).await,
        };
        match done {
            Ok(Some(written)) => Ok(written),
            Err(error) if !is_about_text(&error) || conn.is_borrowed() => Err(error),
            not_done => {
                if conn.state.autocommit != Autocommit::ContinuesInTransaction {
                    conn.state.autocommit = Autocommit::NeedsTransaction;
                }
                Err(not_done.err().unwrap_or(Error::NotStored { model: rows.model() }))
            }
        }
    })
}

/// Whether the database has refused the text of a statement. It may accept the statements of the row and of the deliveries one by one:
/// rules and policies make the difference.
fn is_about_text(error: &Error) -> bool {
    match error {
        Error::Database(sqlx::Error::Database(error)) => {
            error.code().is_some_and(|code| code.starts_with("42") || code.starts_with("0A"))
        }
        _ => false,
    }
}

/// Returns `None` if one statement has not stored the row. An UPDATE is not repeated, because a trigger may have taken its place.
async fn save(
    notifier: &Notifier,
    kind: &WriteKind,
    rows: &mut dyn SignalRows,
    conn: &mut Conn<'_>,
    context: &OperationContext,
) -> Result<Option<WriteOutcome>> {
    if kind.is_update() && !rows.has_key(0) {
        return Err(not_found(rows, 0));
    }
    stamp(rows, kind);
    let Some(single) = Single::of_any(rows, kind) else { return Ok(None) };
    let Some(key) = returned_key(&single, kind, rows) else { return Ok(None) };
    let is_keyed_save = *kind == WriteKind::Save && matches!(single, Single::Both(_));
    if is_keyed_save {
        let key: Vec<_> = rows.schema().group(ColumnGroup::Key).collect();
        if !arbiter::is_arbiter(conn, rows, &key).await?
            || inspect::may_skip_updates(conn, rows).await?
        {
            return Ok(None);
        }
    }
    let created = match single {
        Single::Insert(_) => Some(true),
        Single::Update(_) => Some(false),
        Single::Both(_) => None,
    };
    let advances = created == Some(false) && rows.schema().has(ColumnGroup::Version);
    if advances {
        // The event has the version that the UPDATE stores.
        rows.keep();
        rows.advance(0);
    }
    let deliveries = encoded(notifier, created, key, rows, context);
    if advances {
        rows.restore();
    }
    let saved = match deliveries? {
        StoredWithRow::Nothing => single.run(conn, rows).await?,
        StoredWithRow::Impossible => return Ok(None),
        StoredWithRow::Deliveries(deliveries) => {
            let saved = single.run_storing(conn, rows, &*deliveries).await?;
            note_stored(&*deliveries, saved.is_some(), conn);
            saved
        }
    };
    if saved.is_none() && created == Some(false) {
        conn.state.autocommit = Autocommit::ContinuesInTransaction;
    }
    Ok(saved.map(|saved| WriteOutcome::of_save(Some(saved))))
}

/// The quoted name of the key, if the statement returns the key. `None` if it returns another column, or if the event depends on what it
/// returns.
fn returned_key(
    single: &Single,
    kind: &WriteKind,
    rows: &dyn SignalRows,
) -> Option<Option<&'static str>> {
    let model = rows.schema();
    let is_both = matches!(single, Single::Both(_));
    if is_both && model.has(ColumnGroup::Version) {
        // Only an UPDATE increments the version.
        return None;
    }
    let returned = single.text().returned(model);
    let is_key = |column: &usize| model.group(ColumnGroup::Key).any(|key| key == *column);
    match returned[..] {
        [] => Some(None),
        // The stored row may have another key than the instance.
        [_] if rows.has_key(0) && matches!(kind, WriteKind::Upsert(_)) => None,
        [column] if model.keys == 1 && is_key(&column) => Some(Some(model.name(column))),
        _ => None,
    }
}

/// Returns `None` if the deliveries cannot be stored by the statement.
async fn delete(
    notifier: &Notifier,
    rows: &mut dyn SignalRows,
    conn: &mut Conn<'_>,
    context: &OperationContext,
) -> Result<Option<WriteOutcome>> {
    let deliveries = match encoded(notifier, None, None, rows, context)? {
        StoredWithRow::Nothing => return delete_one(rows, conn).await.map(Some),
        StoredWithRow::Impossible => return Ok(None),
        StoredWithRow::Deliveries(deliveries) => deliveries,
    };
    let affected = {
        let make = |kind| deliveries.add_to(delete::statement(rows, kind)?);
        let written = conn.write(&make, true, &delete::on_detached, &mut |_| ()).await;
        written.map_err(|error| deliveries.explained(error))?
    };
    note_stored(&*deliveries, affected > 0, conn);
    match affected {
        0 => not_deleted(conn, rows).await.map(Some),
        _ => Ok(Some(deleted(true))),
    }
}

fn encoded(
    notifier: &Notifier,
    created: Option<bool>,
    key: Option<&'static str>,
    rows: &mut dyn SignalRows,
    context: &OperationContext,
) -> Result<StoredWithRow> {
    let receivers = &*notifier.receivers;
    let tells_created = created.is_none() && notifier.kind != WriteKind::Delete;
    let texts = receivers.storing_texts.clone();
    let written = WrittenRow { key, tells_created, texts };
    let event = RowsEvent { rows, event: RowEvent::of_row(0, created) };
    event_store::with_row(&event, receivers, context, &written)
}

/// Inside a transaction of sqlx, this is too early: the workers look for the deliveries again at their next poll.
fn note_stored(deliveries: &dyn RowDeliveries, is_stored: bool, conn: &Conn<'_>) {
    if is_stored {
        deliveries.stored(conn.state.db.as_ref());
    }
}
