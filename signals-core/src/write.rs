//! A save with receivers, of one row or of several.

use futures_util::future::BoxFuture;

use crate::automatic;
use crate::bulk::{self, Left, Update, Work};
use crate::chunk::{self, Chunk};
use crate::column::{Column, settable, unique_places};
use crate::conn::Conn;
use crate::context;
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::facts;
use crate::heard::{Heard, Written};
use crate::instances::{Instances, Of};
use crate::key_order::{keyed_first, write_order};
use crate::model::{Model, Saved};
use crate::own_transaction::{Undoable, in_transaction};
use crate::read::Found;
use crate::refused;
use crate::save::{ATTEMPTS, Stored, Verb, conflicting, find_like, not_found, stale, store};
use crate::statements::Group;
use crate::store::Route;
use crate::testing::recording::Recorders;
use crate::trace::{span, traced};
use crate::transaction::Transaction;
use crate::unit::{Doubt, Kept, Unit, perform};

/// Saves the one row that there is.
///
/// Where nobody hears of it, this is no future on the heap; that is compiled once for each part of a program that the compiler
/// takes for itself, but not for each model.
pub(crate) async fn one(
    rows: &mut dyn Instances,
    source: Source<'_>,
    verb: Verb,
) -> Result<Stored> {
    let (table, recorders) = (rows.table(), Recorders::of_task(rows.id()));
    let span = span!("save", model = rows.model());
    if let Some(pair) = table.heard_save().or_else(|| recorders.any().then(|| table.save())) {
        let heard = Heard::new(Unit::Save(verb), false, pair, recorders);
        return Ok(Stored::of(&perform(heard, rows, source, span).await?));
    }
    context::observe("save", rows.model());
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
    match conn.scope.take_needs_transaction(&done) {
        true => transacted(rows, conn, &verb).await,
        false => done,
    }
}

/// Saves a row that nobody hears of.
async fn alone(rows: &mut dyn Instances, conn: &mut Conn<'_>, verb: &Verb) -> Result<Stored> {
    let doubt = Doubt::of(conn, "save", rows.model());
    let mut kept = Kept::alone(rows);
    stamp(kept.rows, verb);
    let done = store(doubt.conn, kept.rows, verb, false).await;
    if done.is_ok() {
        kept.is_done();
    }
    doubt.end(done)
}

/// As [`alone`], in a transaction.
fn transacted<'s>(
    rows: &'s mut dyn Instances,
    conn: Conn<'s>,
    verb: &'s Verb,
) -> BoxFuture<'s, Result<Stored>> {
    Box::pin(in_transaction(conn, Storing { kept: Kept::of(rows), verb }))
}

/// A save in a transaction of a row that nobody hears of.
struct Storing<'s> {
    kept: Kept<'s>,
    verb: &'s Verb,
}

impl Undoable for Storing<'_> {
    type Done = Stored;

    async fn run(&mut self, tx: &mut Transaction<'_>) -> Result<Stored> {
        stamp(self.kept.rows, self.verb);
        store(tx, self.kept.rows, self.verb, false).await
    }

    fn commits(&mut self) {
        self.kept.is_done();
    }

    fn is_refused(&mut self) {
        self.kept.restore();
    }

    fn begins_again(&mut self) {
        self.kept.begins_again();
    }
}

/// As [`alone`], of a row of which it is not known whether its statement can commit itself: in a transaction if it cannot.
fn undoable<'s>(
    rows: &'s mut dyn Instances,
    mut conn: Conn<'s>,
    verb: Verb,
) -> BoxFuture<'s, Result<Stored>> {
    Box::pin(async move {
        if facts::commits_itself(&mut conn, rows, Some(&verb)).await? {
            let done = alone(rows, &mut conn, &verb).await;
            if !conn.scope.take_needs_transaction(&done) {
                return done;
            }
        }
        transacted(rows, conn, &verb).await
    })
}

/// UPDATE of some columns.
pub(crate) async fn save_columns<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
    fields: &[Column<M>],
) -> Result<Saved> {
    if fields.is_empty() {
        return Ok(Saved { created: false });
    }
    let verb = Verb::Fields(settable(fields)?.into());
    one(Of::<M, R>::one(model).with_fields(fields).instances(), source, verb).await?;
    Ok(Saved { created: false })
}

/// UPDATE of some columns of several rows.
pub(crate) async fn save_columns_of_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
    fields: &[Column<M>],
) -> Result<u64> {
    let verb = Verb::Fields(settable(fields)?.into());
    many(Of::<M, R>::new(rows).with_fields(fields).instances(), source, verb).await
}

/// UPDATE of the row that has the same in these columns, or INSERT.
pub(crate) async fn upsert<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
    unique: &[Column<M>],
) -> Result<Saved> {
    let on = unique_places(model, unique)?;
    let mut rows = Of::<M, R>::one(model);
    one(rows.instances(), source, Verb::Upsert(on.into())).await.map(Stored::saved)
}

/// The row that has the same in these columns, or INSERT.
pub(crate) async fn get_or_create<M: Model, R: Route<M>>(
    mut row: M,
    mut source: Source<'_>,
    unique: &[Column<M>],
) -> Result<(M, bool)> {
    let on = unique_places(&row, unique)?;
    // A receiver that goes to the pool must not wait for the connection that was only looked with.
    let heard = M::__table().heard_save().is_some();
    // Where the row is deleted just then, it is for us to insert after all.
    for attempt in 0..ATTEMPTS {
        let mut conn = source.reborrow().acquire().await?;
        let found = find_like(&mut conn, Of::<M, R>::one(&mut row).instances(), &on).await?;
        if let Some(found) = found {
            return Ok((Found::<M, R>::loaded(&found, &mut conn).await?, false));
        }
        if attempt > 1 {
            // Nobody else was faster: the index compares in another way than `=` does.
            let rows = Of::<M, R>::one(&mut row);
            if let Some(found) = as_index_says::<M, R>(&mut conn, rows, &on).await? {
                return Ok((found, false));
            }
        }
        let verb = Verb::GetOrCreate(on.clone().into());
        let source = if heard {
            drop(conn);
            source.reborrow()
        } else {
            conn.into()
        };
        if one(Of::<M, R>::one(&mut row).instances(), source, verb).await? == Stored::Created {
            return Ok((row, true));
        }
    }
    Err(Error::NotStored { model: M::NAME })
}

/// The row that an INSERT would conflict with in these columns, if it is still there.
async fn as_index_says<M: Model, R: Route<M>>(
    conn: &mut Conn<'_>,
    mut row: Of<'_, M, R>,
    on: &[usize],
) -> Result<Option<M>> {
    let rows = row.instances();
    if !facts::is_arbiter(conn, rows, on).await? {
        return Ok(None);
    }
    let Some(conflicting) = conflicting(conn, rows, on).await? else { return Ok(None) };
    let Some(key) = R::load(&conflicting, 0)?.pk() else { return Ok(None) };
    let mut found = Found::<M, R>::default();
    found.by_key(conn.reborrow().into(), &key).await?;
    Ok(found.row)
}

/// Inserts or updates several rows.
pub(crate) async fn save_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
    verb: Verb,
) -> Result<u64> {
    many(Of::<M, R>::new(rows).instances(), source, verb).await
}

/// As [`one`], of all rows.
pub(crate) async fn many(rows: &mut dyn Instances, source: Source<'_>, verb: Verb) -> Result<u64> {
    let count = rows.len();
    if count > 0 {
        let span = span!("save", model = rows.model(), rows = count);
        let recorders = Recorders::of_task(rows.id());
        let heard = Heard::new(Unit::Save(verb), true, rows.table().save(), recorders);
        perform(heard, rows, source, span).await?;
    }
    Ok(count as u64)
}

/// Sets the columns that are set to the time of the write.
pub(crate) fn stamp(rows: &mut dyn Instances, verb: &Verb) {
    if rows.statements().has_times() {
        rows.stamp(automatic::now(), !matches!(verb, Verb::Update | Verb::Fields(_)));
    }
}

/// The rows of a save of several. On the heap, so that a save of one has no room for it.
pub(crate) fn write_many<'w>(
    rows: &'w mut dyn Instances,
    conn: &'w mut Conn<'_>,
    verb: &'w Verb,
    heard: &'w Heard,
) -> BoxFuture<'w, Result<Written>> {
    match verb {
        Verb::Insert => Box::pin(insert_many(rows, conn)),
        verb => Box::pin(update_many(rows, conn, verb, heard)),
    }
}

async fn insert_many(rows: &mut dyn Instances, conn: &mut Conn<'_>) -> Result<Written> {
    let order = write_order(conn, rows).await?;
    rows.set_order(keyed_first(rows));
    let chunks = chunk::inserts(conn.kind(), rows);
    let slices = chunks.iter().flat_map(|chunk| chunk::slices(rows, chunk.rows.clone()));
    let batches: Vec<_> = slices.collect();
    rows.set_order(order);
    for chunk in chunks {
        refused::write(conn, rows, &chunk, Work::Insert).await?;
    }
    rows.set_order(Vec::new());
    Ok(Written::several(Some(true), batches))
}

async fn update_many(
    rows: &mut dyn Instances,
    conn: &mut Conn<'_>,
    verb: &Verb,
    heard: &Heard,
) -> Result<Written> {
    let model = rows.statements();
    let set: Vec<_> = match verb {
        Verb::Fields(set) => set.to_vec(),
        _ => model.group(Group::Set).collect(),
    };
    let on: Vec<_> = model.group(Group::Key).collect();
    let twice =
        |rows: &dyn Instances, row| Error::Twice { model: rows.model(), key: rows.key(row) };
    if let Some(row) = (0..rows.len()).find(|row| !rows.has_key(*row)) {
        return Err(heard.of_row(rows, row, not_found(rows, row)));
    }
    let update = Update { set: &set, on: &on, checked: true, before: heard.pair.previous };
    let chunks = update.chunks(conn.kind(), rows);
    if chunks.len() > 1
        && let Some(row) = bulk::twin(conn.kind(), rows)
    {
        // No statement has them both.
        return Err(heard.of_row(rows, row, twice(rows, row)));
    }
    let order = write_order(conn, rows).await?;
    rows.set_order(order);
    for chunk in &chunks {
        let stored = refused::write(conn, rows, chunk, Work::Update(&update)).await?;
        if stored.len() < chunk.rows.len()
            && let Some((row, error)) = unwritten(conn, rows, chunk, &update, &stored).await?
        {
            rows.set_order(Vec::new());
            return Err(heard.of_row(rows, row, error));
        }
    }
    rows.set_order(Vec::new());
    let batches: Vec<_> = chunks.into_iter().map(|chunk| chunk.rows).collect();
    Ok(Written::several(Some(false), batches))
}

/// Looks after the rows of a chunk that an UPDATE did not write. Those that another transaction has written meanwhile are
/// updated now, those that a trigger skips stay as they are. Of the others, the first in the program's order is an error, by
/// its place.
async fn unwritten(
    conn: &mut Conn<'_>,
    rows: &mut dyn Instances,
    chunk: &Chunk,
    update: &Update<'_>,
    stored: &[usize],
) -> Result<Option<(usize, Error)>> {
    let twice = |rows: &dyn Instances, row| {
        (rows.place(row), Error::Twice { model: rows.model(), key: rows.key(row) })
    };
    if let Some(row) = bulk::twin(conn.kind(), rows) {
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
            true if rows.statements().has(Group::Version) => stale(rows, row),
            // Two keys that only the database takes for the same.
            true => return Ok(Some(twice(rows, row))),
        };
        return Ok(Some((rows.place(row), error)));
    }
    if let Some(row) = bulk::twin_in_database(conn, rows, chunk, &missing).await? {
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
