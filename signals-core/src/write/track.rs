//! Adds a write to the net changes of its transaction, for receivers that run once per transaction.

use std::collections::HashMap;

use futures_util::future::{BoxFuture, Either, Ready, ready};

use crate::database::conn::Conn;
use crate::error::Result;
use crate::signal::operation_context::OperationContext;
use crate::signal::rows::SignalRows;
use crate::table::chunk;
use crate::write::lookup::stored_rows;
use crate::write::notify::Notifier;

/// Adds the write of these rows to the net changes. Boxed if there are such receivers, so that other writes do not grow.
pub(super) fn track<'t>(
    notifier: &'t Notifier,
    rows: &'t mut dyn SignalRows,
    conn: &'t mut Conn<'_>,
    context: &'t OperationContext,
) -> Either<Ready<Result<()>>, BoxFuture<'t, Result<()>>> {
    match notifier.receivers.once().next() {
        None => Either::Left(ready(Ok(()))),
        Some(_) => Either::Right(Box::pin(track_each(notifier, rows, conn, context))),
    }
}

async fn track_each(
    notifier: &Notifier,
    rows: &mut dyn SignalRows,
    conn: &mut Conn<'_>,
    context: &OperationContext,
) -> Result<()> {
    let mut differing = DifferingRows::of(notifier, rows, conn).await?;
    for row in notifier.written.rows() {
        let mut written = match &mut differing {
            Some(DifferingRows { stored, places }) if places.contains_key(&row) => {
                notifier.row_write(&mut **stored, places[&row], row)
            }
            _ => notifier.row_write(&mut *rows, row, row),
        };
        let tracked = written.track(notifier.receivers.once(), context, conn);
        tracked.map_err(|error| notifier.with_row(rows, row, error))?;
    }
    Ok(())
}

/// The rows of a partial save that are stored with other values than their instances have.
struct DifferingRows {
    stored: Box<dyn SignalRows>,
    /// The index in `stored` of each row of the caller.
    places: HashMap<usize, usize>,
}

impl DifferingRows {
    /// Reads the rows whose net change includes columns that this write has not saved: another instance may have saved them. `None` if
    /// there is none, or if the model is not `Clone`. A row that cannot be decoded is left out, because the save has succeeded.
    async fn of(
        notifier: &Notifier,
        rows: &mut dyn SignalRows,
        conn: &mut Conn<'_>,
    ) -> Result<Option<Self>> {
        let mut partial = Vec::new();
        for row in notifier.written.rows() {
            let written = notifier.row_write(rows, row, row);
            if written.net_change_has_other_columns(notifier.receivers.once(), conn)? {
                partial.push(row);
            }
        }
        if partial.is_empty() {
            return Ok(None);
        }
        let Some(mut found) = rows.copied() else { return Ok(None) };
        found.truncate(0);
        let (kind, mut places) = (conn.kind(), HashMap::new());
        for chunk in chunk::deletes(kind, rows) {
            for (row, from) in stored_rows(conn, rows, &chunk).await? {
                if partial.binary_search(&row).is_err() {
                    continue;
                }
                let Ok(stored) = rows.load(&from, 1) else { continue };
                let is_same = |column| rows.as_rows().is_same(row, column, &*stored, kind);
                if !(0..rows.columns().len()).all(is_same) {
                    places.insert(row, found.len());
                    found.push(&from, 1)?;
                }
            }
        }
        Ok(Some(Self { stored: found, places }))
    }
}
