//! A save with receivers, of one row or of several.

use crate::transaction::own::Undoable;
use crate::transaction::own::in_transaction;
use futures_util::future::BoxFuture;

use crate::database::conn::Conn;
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::signal::recording::Recorders;
use crate::signal::rows::SignalRows;
use crate::table::automatic;
use crate::table::chunk::{self, Chunk};
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::task::chain;
use crate::task::span::{span, traced};
use crate::transaction::Transaction;
use crate::transaction::guard::FailGuard;
use crate::write::WriteKind;
use crate::write::WriteOutcome;
use crate::write::bulk::{self, BulkOp, Left, Update};
use crate::write::inspect;
use crate::write::key_order::{keyed_first, write_order};
use crate::write::locate;
use crate::write::notify::Notifier;
use crate::write::perform::perform;
use crate::write::restore::RestoreGuard;
use crate::write::single::{not_found, stale, store};
use crate::write::{SaveKind, Stored};

/// Saves the one row that there is.
///
/// Where nobody hears of it, this is no future on the heap; that is compiled once for each part of a program that the compiler
/// takes for itself, but not for each model.
pub(crate) async fn one(
    rows: &mut dyn SignalRows,
    source: Source<'_>,
    verb: SaveKind,
) -> Result<Stored> {
    let (table, recorders) = (rows.receivers(), Recorders::of_task(rows.id()));
    let span = span!("save", model = rows.model());
    if let Some(pair) = table.save_if_any().or_else(|| recorders.any().then(|| table.save())) {
        let heard = Notifier::new(WriteKind::Save(verb), false, pair, recorders);
        return Ok(Stored::of(&perform(heard, rows, source, span).await?));
    }
    chain::observe("save", rows.model());
    let mut conn = source.acquire().await?;
    let kind = conn.kind();
    if !conn.in_transaction() && conn.facts().commits_itself(kind, rows, Some(&verb)) != Some(true)
    {
        return traced(span, undoable(rows, conn, verb)).await;
    }
    let done = if span.is_disabled() {
        alone(rows, &mut conn, &verb).await
    } else {
        traced(span, alone(rows, &mut conn, &verb)).await
    };
    match conn.state.take_needs_transaction(&done) {
        true => transacted(rows, conn, &verb).await,
        false => done,
    }
}

/// Saves a row that nobody hears of.
async fn alone(rows: &mut dyn SignalRows, conn: &mut Conn<'_>, verb: &SaveKind) -> Result<Stored> {
    let doubt = FailGuard::of(conn, "save", rows.model());
    let mut kept = RestoreGuard::alone(rows);
    stamp(kept.rows, verb);
    let done = store(doubt.conn, kept.rows, verb, false).await;
    if done.is_ok() {
        kept.is_done();
    }
    doubt.end(done)
}

/// As [`alone`], in a transaction.
fn transacted<'s>(
    rows: &'s mut dyn SignalRows,
    conn: Conn<'s>,
    verb: &'s SaveKind,
) -> BoxFuture<'s, Result<Stored>> {
    Box::pin(in_transaction(conn, Storing { kept: RestoreGuard::of(rows), verb }))
}

/// A save in a transaction of a row that nobody hears of.
struct Storing<'s> {
    kept: RestoreGuard<'s>,
    verb: &'s SaveKind,
}

impl Undoable for Storing<'_> {
    type Done = Stored;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<Stored> {
        stamp(self.kept.rows, self.verb);
        store(tx, self.kept.rows, self.verb, false).await
    }

    fn before_commit(&mut self) {
        self.kept.is_done();
    }

    fn commit_refused(&mut self) {
        self.kept.restore();
    }

    fn before_retry(&mut self) {
        self.kept.begins_again();
    }
}

/// As [`alone`], of a row of which it is not known whether its statement can commit itself: in a transaction if it cannot.
fn undoable<'s>(
    rows: &'s mut dyn SignalRows,
    mut conn: Conn<'s>,
    verb: SaveKind,
) -> BoxFuture<'s, Result<Stored>> {
    Box::pin(async move {
        if inspect::commits_itself(&mut conn, rows, Some(&verb)).await? {
            let done = alone(rows, &mut conn, &verb).await;
            if !conn.state.take_needs_transaction(&done) {
                return done;
            }
        }
        transacted(rows, conn, &verb).await
    })
}

/// As [`one`], of all rows.
pub(crate) async fn many(
    rows: &mut dyn SignalRows,
    source: Source<'_>,
    verb: SaveKind,
) -> Result<u64> {
    let count = rows.len();
    if count > 0 {
        let span = span!("save", model = rows.model(), rows = count);
        let recorders = Recorders::of_task(rows.id());
        let heard = Notifier::new(WriteKind::Save(verb), true, rows.receivers().save(), recorders);
        perform(heard, rows, source, span).await?;
    }
    Ok(count as u64)
}

/// Sets the columns that are set to the time of the write.
pub(crate) fn stamp(rows: &mut dyn Rows, verb: &SaveKind) {
    if rows.schema().has_times() {
        rows.stamp(automatic::now(), !matches!(verb, SaveKind::Update | SaveKind::Fields(_)));
    }
}

/// The rows of a save of several. On the heap, so that a save of one has no room for it.
pub(crate) fn write_many<'w>(
    rows: &'w mut dyn Rows,
    conn: &'w mut Conn<'_>,
    verb: &'w SaveKind,
    heard: &'w Notifier,
) -> BoxFuture<'w, Result<WriteOutcome>> {
    match verb {
        SaveKind::Insert => Box::pin(insert_many(rows, conn)),
        verb => Box::pin(update_many(rows, conn, verb, heard)),
    }
}

async fn insert_many(rows: &mut dyn Rows, conn: &mut Conn<'_>) -> Result<WriteOutcome> {
    let order = write_order(conn, rows).await?;
    rows.set_order(keyed_first(rows));
    let chunks = chunk::inserts(conn.kind(), rows);
    let slices = chunks.iter().flat_map(|chunk| chunk::slices(rows, chunk.rows.clone()));
    let batches: Vec<_> = slices.collect();
    rows.set_order(order);
    for chunk in chunks {
        locate::write_and_locate(conn, rows, &chunk, BulkOp::Insert).await?;
    }
    rows.set_order(Vec::new());
    Ok(WriteOutcome::several(Some(true), batches))
}

async fn update_many(
    rows: &mut dyn Rows,
    conn: &mut Conn<'_>,
    verb: &SaveKind,
    heard: &Notifier,
) -> Result<WriteOutcome> {
    let model = rows.schema();
    let set: Vec<_> = match verb {
        SaveKind::Fields(set) => set.to_vec(),
        _ => model.group(ColumnGroup::Set).collect(),
    };
    let on: Vec<_> = model.group(ColumnGroup::Key).collect();
    let twice =
        |rows: &dyn Rows, row| Error::DuplicateKey { model: rows.model(), key: rows.key(row) };
    if let Some(row) = (0..rows.len()).find(|row| !rows.has_key(*row)) {
        return Err(heard.of_row(rows, row, not_found(rows, row)));
    }
    let update = Update { set: &set, on: &on, checked: true, before: heard.pair.previous };
    let chunks = update.chunks(conn.kind(), rows);
    if chunks.len() > 1
        && let Some(row) = bulk::duplicate_key(conn.kind(), rows)
    {
        // No statement has them both.
        return Err(heard.of_row(rows, row, twice(rows, row)));
    }
    let order = write_order(conn, rows).await?;
    rows.set_order(order);
    for chunk in &chunks {
        let stored = locate::write_and_locate(conn, rows, chunk, BulkOp::Update(&update)).await?;
        if stored.len() < chunk.rows.len()
            && let Some((row, error)) = unwritten(conn, rows, chunk, &update, &stored).await?
        {
            rows.set_order(Vec::new());
            return Err(heard.of_row(rows, row, error));
        }
    }
    rows.set_order(Vec::new());
    let batches: Vec<_> = chunks.into_iter().map(|chunk| chunk.rows).collect();
    Ok(WriteOutcome::several(Some(false), batches))
}

/// Looks after the rows of a chunk that an UPDATE did not write. Those that another transaction has written meanwhile are
/// updated now, those that a trigger skips stay as they are. Of the others, the first in the program's order is an error, by
/// its place.
async fn unwritten(
    conn: &mut Conn<'_>,
    rows: &mut dyn Rows,
    chunk: &Chunk,
    update: &Update<'_>,
    stored: &[usize],
) -> Result<Option<(usize, Error)>> {
    let twice = |rows: &dyn Rows, row| {
        (rows.place(row), Error::DuplicateKey { model: rows.model(), key: rows.key(row) })
    };
    if let Some(row) = bulk::duplicate_key(conn.kind(), rows) {
        return Ok(Some(twice(rows, row)));
    }
    let missing = chunk.rows.clone().filter(|row| stored.binary_search(row).is_err());
    let missing: Vec<_> = missing.collect();
    // Without a lock: an error must not wait for another transaction.
    let same = bulk::stored_as(conn, rows, chunk, true).await?;
    let others = missing.iter().filter(|row| same.binary_search(row).is_err());
    if let Some(&row) = others.min_by_key(|row| rows.place(**row)) {
        let error = match bulk::is_stored(conn, rows, row).await? {
            false => not_found(rows, row),
            true if rows.schema().has(ColumnGroup::Version) => stale(rows, row),
            // Two keys that only the database takes for the same.
            true => return Ok(Some(twice(rows, row))),
        };
        return Ok(Some((rows.place(row), error)));
    }
    if let Some(row) = bulk::duplicate_key_in_database(conn, rows, chunk, &missing).await? {
        return Ok(Some(twice(rows, row)));
    }
    for row in missing {
        let error = match bulk::settle(conn, rows, row, update).await? {
            Left::Updated | Left::Unchanged => continue,
            Left::Gone => not_found(rows, row),
            Left::Stale => stale(rows, row),
        };
        return Ok(Some((rows.place(row), error)));
    }
    Ok(None)
}
