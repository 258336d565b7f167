//! A save with receivers, of one row or of several.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use tracing::Instrument;

use crate::automatic;
use crate::backend::DatabaseKind;
use crate::bulk::{self, Update, Work};
use crate::conn::Conn;
use crate::context;
use crate::dispatch::{Postponed, dispatch};
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::instances::{Instances, Of};
use crate::model::{Column, Model, Saved};
use crate::previous::{Old, SharedBefore};
use crate::refused;
use crate::save::{ATTEMPTS, Stored, Verb, find_like, not_found, stale, store};
use crate::signal::{
    PostSave, PostSaveBatch, PreSave, Signal, post_save, post_save_batch, pre_save,
};
use crate::store::{Group, Role, Route};
use crate::table::Saving;
use crate::testing::recording::Recorders;
use crate::transaction::Deferred;
use crate::unit::{Doubt, Kept, Needs, Scene, Unit, perform};

/// Saves one row.
pub(crate) async fn save<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
    verb: Verb,
) -> Result<Saved> {
    let span = tracing::debug_span!("save", model = M::NAME);
    let stored = save_fields::<M, R>(model, source, verb, None).instrument(span).await?;
    Ok(Saved { created: stored == Stored::Created })
}

/// Saves one row; `fields` is what its receivers are told of the columns.
pub(crate) async fn save_fields<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
    verb: Verb,
    fields: Option<&[Column<M>]>,
) -> Result<Stored> {
    let rows = std::slice::from_mut(model);
    let (table, recorders) = (M::__table(), Recorders::of_task());
    let Some(pair) = table.heard_save().or_else(|| recorders.any().then(|| table.save())) else {
        context::observe("save", M::NAME);
        let mut conn = source.acquire().await?;
        let doubt = Doubt::of(&mut conn, "save", M::NAME);
        let mut kept = Kept::alone(rows);
        stamp(kept.rows, &verb);
        let done = store(doubt.conn, &mut Of::<M, R>::new(kept.rows), &verb, false).await;
        if done.is_ok() {
            kept.keep();
        }
        return doubt.end(done);
    };
    let mut unit = Write::<M, R>::new(verb, false, pair, recorders);
    unit.fields = fields.map(Into::into);
    perform(&mut unit, rows, source).await?;
    Ok(unit.stored)
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
    let columns = settable(fields)?;
    let verb = Verb::Fields(columns.into());
    let span = tracing::debug_span!("save", model = M::NAME);
    save_fields::<M, R>(model, source, verb, Some(fields)).instrument(span).await?;
    Ok(Saved { created: false })
}

/// UPDATE of some columns of several rows.
pub(crate) async fn save_columns_of_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
    fields: &[Column<M>],
) -> Result<u64> {
    let verb = Verb::Fields(settable(fields)?.into());
    save_rows::<M, R>(rows, source, verb, Some(fields)).await
}

/// The places of columns that the program can set alone, and of those that are set at every write.
pub(crate) fn settable<M: Model>(fields: &[Column<M>]) -> Result<Vec<usize>> {
    let mut columns = places(fields)?;
    for column in &columns {
        if !matches!(M::STATEMENTS.columns[*column].role, Role::Plain | Role::AutoNow) {
            let (model, column) = (M::NAME, M::COLUMNS[*column]);
            let why = "is not the program's to set alone";
            return Err(Error::other(format!("the column `{column}` of `{model}` {why}")));
        }
    }
    let times = M::STATEMENTS.columns.iter().enumerate();
    columns.extend(times.filter(|(_, c)| c.role == Role::AutoNow).map(|(i, _)| i));
    columns.sort_unstable();
    columns.dedup();
    Ok(columns)
}

/// UPDATE of the row that has the same in these columns, or INSERT.
pub(crate) async fn upsert<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
    unique: &[Column<M>],
) -> Result<Saved> {
    let on = unique_places(model, unique)?;
    save::<M, R>(model, source, Verb::Upsert(on.into())).await
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
    for _ in 0..ATTEMPTS {
        let mut conn = source.reborrow().acquire().await?;
        if let Some(found) = find_like::<M, R>(&mut conn, &mut row, &on).await? {
            return Ok((found, false));
        }
        let verb = Verb::GetOrCreate(on.clone().into());
        let source = if heard {
            drop(conn);
            source.reborrow()
        } else {
            conn.into()
        };
        let span = tracing::debug_span!("save", model = M::NAME);
        let stored = save_fields::<M, R>(&mut row, source, verb, None).instrument(span).await?;
        if stored == Stored::Created {
            return Ok((row, true));
        }
    }
    Err(Error::NotStored { model: M::NAME })
}

/// The columns of a row that are to be unique together.
fn unique_places<M: Model>(row: &M, unique: &[Column<M>]) -> Result<Vec<usize>> {
    let (model, columns) = (M::NAME, places(unique)?);
    if columns.is_empty() {
        return Err(Error::other(format!("a `{model}` is found by one column at least")));
    }
    for column in &columns {
        let name = M::COLUMNS[*column];
        match M::STATEMENTS.columns[*column].role {
            Role::GeneratedKey if row.pk().is_none() => {
                return Err(Error::NotFound { model, key: "`None`".to_owned() });
            }
            Role::Plain | Role::Key | Role::GeneratedKey => {}
            _ => {
                let why = "is not the program's to set";
                return Err(Error::other(format!("the column `{name}` of `{model}` {why}")));
            }
        }
    }
    Ok(columns)
}

/// The places of columns among those of the model, each once, in the order of the fields.
fn places<M: Model>(columns: &[Column<M>]) -> Result<Vec<usize>> {
    let place = |column: &Column<M>| {
        let place = M::COLUMNS.iter().position(|name| *name == column.name());
        place.ok_or_else(|| Error::other(format!("`{}` has no column `{column}`", M::NAME)))
    };
    let mut places = columns.iter().map(place).collect::<Result<Vec<_>>>()?;
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

/// Inserts or updates several rows.
pub(crate) async fn save_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
    verb: Verb,
) -> Result<u64> {
    save_rows::<M, R>(rows, source, verb, None).await
}

async fn save_rows<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
    verb: Verb,
    fields: Option<&[Column<M>]>,
) -> Result<u64> {
    if rows.is_empty() {
        return Ok(0);
    }
    let span = tracing::debug_span!("save", model = M::NAME, rows = rows.len());
    let count = rows.len() as u64;
    let mut unit = Write::<M, R>::new(verb, true, M::__table().save(), Recorders::of_task());
    unit.fields = fields.map(Into::into);
    perform(&mut unit, rows, source).instrument(span).await?;
    Ok(count)
}

fn stamp<M: Model>(rows: &mut [M], verb: &Verb) {
    let model = M::STATEMENTS;
    if model.has_times() {
        let now = automatic::now();
        let added = !matches!(verb, Verb::Update | Verb::Fields(_));
        rows.iter_mut().for_each(|row| row.__stamp(now, added));
    }
}

/// A save with receivers.
struct Write<M: Model, R> {
    verb: Verb,
    many: bool,
    /// What the receivers are told of the columns.
    fields: Option<Arc<[Column<M>]>>,
    /// What has become of the rows, of each the same.
    stored: Stored,
    /// The rows of each statement.
    statements: Vec<Range<usize>>,
    /// What each row was before, where that is asked for.
    before: Vec<SharedBefore>,
    pair: Arc<Saving<M>>,
    recorders: Recorders<M>,
    route: PhantomData<fn() -> R>,
}

impl<M: Model, R> Clone for Write<M, R> {
    fn clone(&self) -> Self {
        Self {
            verb: self.verb.clone(),
            many: self.many,
            fields: self.fields.clone(),
            stored: self.stored,
            statements: self.statements.clone(),
            before: self.before.clone(),
            pair: Arc::clone(&self.pair),
            recorders: self.recorders.clone(),
            route: PhantomData,
        }
    }
}

impl<M: Model, R> Write<M, R> {
    fn new(verb: Verb, many: bool, pair: Arc<Saving<M>>, recorders: Recorders<M>) -> Self {
        Self {
            verb,
            many,
            fields: None,
            stored: Stored::Not,
            statements: Vec::new(),
            before: Vec::new(),
            pair,
            recorders,
            route: PhantomData,
        }
    }

    fn event<'e>(&'e self, instance: &'e M) -> PostSave<'e, M> {
        let created = self.stored == Stored::Created;
        PostSave { instance, created, fields: self.fields.as_deref() }
    }

    fn batch<'e>(&'e self, instances: &'e [M]) -> PostSaveBatch<'e, M> {
        let created = self.stored == Stored::Created;
        PostSaveBatch { instances, created, fields: self.fields.as_deref() }
    }

    fn before(&self, row: usize) -> &SharedBefore {
        self.before.get(row).unwrap_or(&None)
    }

    /// An error of one of several rows says which.
    fn of_row(&self, rows: &[M], row: usize, error: Error) -> Error {
        if !self.many {
            return error;
        }
        let verb = if self.verb == Verb::Insert { "insert" } else { "update" };
        Error::of_row(verb, rows, row, error)
    }
}

impl<M: Model, R: Route<M>> Write<M, R> {
    async fn insert_many(&mut self, rows: &mut Of<'_, M, R>, conn: &mut Conn<'_>) -> Result<()> {
        for chunk in bulk::inserts(conn.kind(), rows) {
            refused::write(conn, rows, &chunk, Work::Insert).await?;
            self.statements.extend(rows.slices(chunk.rows));
        }
        self.stored = Stored::Created;
        Ok(())
    }

    async fn update_many(&mut self, rows: &mut Of<'_, M, R>, conn: &mut Conn<'_>) -> Result<()> {
        let set: Vec<_> = match &self.verb {
            Verb::Fields(set) => set.to_vec(),
            _ => M::STATEMENTS.group(Group::Set).collect(),
        };
        let on: Vec<_> = M::STATEMENTS.group(Group::Key).collect();
        let twice = |rows: &Of<'_, M, R>, row| Error::Twice { model: M::NAME, key: rows.key(row) };
        if let Some(row) = (0..rows.len()).find(|row| !rows.has_key(*row)) {
            return Err(self.of_row(rows.rows, row, not_found(rows, row)));
        }
        let update = Update { set: &set, on: &on, checked: true, before: self.pair.previous };
        let chunks = update.chunks(conn.kind(), rows);
        if chunks.len() > 1
            && let Some(row) = bulk::twin(conn.kind(), rows)
        {
            // No statement has them both.
            return Err(self.of_row(rows.rows, row, twice(rows, row)));
        }
        for chunk in chunks {
            let stored = refused::write(conn, rows, &chunk, Work::Update(&update)).await?;
            let missing = chunk.rows.clone().find(|row| stored.binary_search(row).is_err());
            if let Some(row) = missing {
                let twin = bulk::twin(conn.kind(), rows);
                let row = twin.unwrap_or(row);
                let error = match twin.is_some() || bulk::is_stored(conn, rows, row).await? {
                    false => not_found(rows, row),
                    true if twin.is_none() && M::STATEMENTS.has(Group::Version) => stale(rows, row),
                    // Where it is no twin, then two keys that only the database takes for the same.
                    true => twice(rows, row),
                };
                return Err(self.of_row(rows.rows, row, error));
            }
            self.statements.push(chunk.rows);
        }
        self.stored = Stored::Updated;
        Ok(())
    }
}

impl<M: Model, R: Route<M>> Unit<M> for Write<M, R> {
    const VERB: &'static str = "save";

    fn needs(&self, rows: &mut [M], kind: DatabaseKind) -> Needs {
        let mut needs = self.pair.needs();
        // Who may still give a row its key decides how many statements it is.
        let settled = self.verb == Verb::Insert && self.pair.before.is_empty();
        let mut is_one = || bulk::inserts(kind, &Of::<M, R>::new(rows)).len() == 1;
        needs.transaction |= self.many && !(settled && is_one());
        needs
    }

    async fn before(
        &self,
        rows: &mut [M],
        mut conn: Option<&mut Conn<'_>>,
        scene: &Scene,
    ) -> Result<()> {
        if self.pair.before.is_empty() && !self.recorders.any() {
            return Ok(());
        }
        for row in 0..rows.len() {
            self.recorders.before(pre_save::NAME, &rows[row]);
            let event = PreSave { instance: &mut rows[row], fields: self.fields.as_deref() };
            let done = dispatch(&self.pair.before, event, conn.as_deref_mut(), scene, &None).await;
            done.map_err(|error| self.of_row(rows, row, error))?;
        }
        Ok(())
    }

    async fn write(&mut self, rows: &mut [M], conn: &mut Conn<'_>) -> Result<()> {
        stamp(rows, &self.verb);
        let count = rows.len();
        let mut of = Of::<M, R>::new(rows);
        if self.many && self.verb == Verb::Insert {
            let order = bulk::insert_order(&of);
            of = of.in_order(order);
            Box::pin(self.insert_many(&mut of, conn)).await?;
        } else if self.many {
            Box::pin(self.update_many(&mut of, conn)).await?;
        } else {
            self.stored = store(conn, &mut of, &self.verb, self.pair.previous).await?;
            self.statements.push(0..1);
        }
        if self.pair.previous {
            of.before.resize_with(count, Old::none);
            let shared = |old| Some(Arc::new(old) as _);
            self.before = of.before.into_iter().map(shared).collect();
        }
        Ok(())
    }

    async fn after(&self, rows: &[M], conn: &mut Conn<'_>, scene: &Scene) -> Result<()> {
        if self.stored == Stored::Not {
            return Ok(());
        }
        if !self.pair.after.is_empty() {
            for (row, instance) in rows.iter().enumerate() {
                let (event, before) = (self.event(instance), self.before(row));
                let done = dispatch(&self.pair.after, event, Some(&mut *conn), scene, before).await;
                done.map_err(|error| self.of_row(rows, row, error))?;
            }
        }
        if !self.pair.batch.is_empty() {
            for statement in &self.statements {
                let event = self.batch(&rows[statement.clone()]);
                dispatch(&self.pair.batch, event, Some(&mut *conn), scene, &None).await?;
            }
        }
        Ok(())
    }

    fn postponed(&self, rows: &[M], scene: &Scene) -> Vec<Box<dyn Deferred>> {
        let mut all = Vec::new();
        if self.stored == Stored::Not {
            return all;
        }
        if !self.pair.deferred.is_empty() || self.recorders.any() {
            for (row, instance) in rows.iter().enumerate() {
                let event = self.event(instance);
                let (deferred, before) = (&self.pair.deferred, self.before(row));
                let snapshot = || post_save::snapshot::<M>(&event);
                let waiting = Postponed::of(deferred, &event, snapshot, scene, before);
                let (created, seen) = (Some(event.created), scene.db.is_some());
                let of = &self.recorders;
                all.extend(of.after(post_save::NAME, created, instance, seen, waiting));
            }
        }
        if !self.pair.deferred_batch.is_empty() {
            for statement in &self.statements {
                let event = self.batch(&rows[statement.clone()]);
                let deferred = &self.pair.deferred_batch;
                let snapshot = || post_save_batch::snapshot::<M>(&event);
                all.extend(Postponed::of(deferred, &event, snapshot, scene, &None));
            }
        }
        all
    }
}
