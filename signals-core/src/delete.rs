//! A delete with receivers, of one row or of several.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use tracing::Instrument;

use crate::backend::{Arguments, DatabaseKind, Statement};
use crate::bulk::{self, Work};
use crate::cascade::entry;
use crate::conn::Conn;
use crate::context;
use crate::dispatch::{Postponed, dispatch};
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::instances::{Instances, Of};
use crate::linked::Dependent;
use crate::model::Model;
use crate::previous::{Old, SharedBefore};
use crate::refused;
use crate::save::stale;
use crate::scope::RowId;
use crate::signal::{
    PostDelete, PostDeleteBatch, PreDelete, Signal, post_delete, post_delete_batch, pre_delete,
};
use crate::store::{Group, Route};
use crate::table::Deleting;
use crate::testing::recording::Recorders;
use crate::transaction::Deferred;
use crate::unit::{Doubt, Needs, Scene, Unit, perform};

/// Deletes one row, and returns whether there was one.
pub(crate) async fn delete<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
) -> Result<bool> {
    if model.pk().is_none() {
        return Ok(false);
    }
    let span = tracing::debug_span!("delete", model = M::NAME);
    let rows = std::slice::from_mut(model);
    let deleted = delete_in_span::<M, R>(rows, source).instrument(span).await?;
    rows[0].__set_pk(None);
    Ok(deleted)
}

async fn delete_in_span<M: Model, R: Route<M>>(rows: &mut [M], source: Source<'_>) -> Result<bool> {
    let (table, recorders) = (M::__table(), Recorders::of_task());
    let Some(pair) = table.heard_delete().or_else(|| recorders.any().then(|| table.delete()))
    else {
        context::observe("delete", M::NAME);
        let mut conn = source.acquire().await?;
        let doubt = Doubt::of(&mut conn, "delete", M::NAME);
        let done = remove(doubt.conn, &mut Of::<M, R>::new(rows)).await;
        return doubt.end(done);
    };
    let mut unit = Delete::<M, R>::new(false, pair, recorders);
    perform(&mut unit, rows, source).await?;
    Ok(unit.deleted == [0])
}

/// Deletes several rows, and returns how many there were. A row without a key is none.
pub(crate) async fn delete_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
) -> Result<u64> {
    if rows.iter().all(|row| row.pk().is_none()) {
        return Ok(0);
    }
    let span = tracing::debug_span!("delete", model = M::NAME, rows = rows.len());
    let mut unit = Delete::<M, R>::new(true, M::__table().delete(), Recorders::of_task());
    perform(&mut unit, rows, source).instrument(span).await?;
    rows.iter_mut().for_each(|row| row.__set_pk(None));
    Ok(unit.deleted.len() as u64)
}

/// A delete with receivers.
struct Delete<M: Model, R> {
    many: bool,
    /// The rows that were there.
    deleted: Vec<usize>,
    /// The rows of each statement.
    statements: Vec<Range<usize>>,
    /// What each row was before, where that is asked for.
    before: Vec<SharedBefore>,
    pair: Arc<Deleting<M>>,
    recorders: Recorders<M>,
    route: PhantomData<fn() -> R>,
}

impl<M: Model, R> Clone for Delete<M, R> {
    fn clone(&self) -> Self {
        Self {
            many: self.many,
            deleted: self.deleted.clone(),
            statements: self.statements.clone(),
            before: self.before.clone(),
            pair: Arc::clone(&self.pair),
            recorders: self.recorders.clone(),
            route: PhantomData,
        }
    }
}

impl<M: Model, R> Delete<M, R> {
    fn new(many: bool, pair: Arc<Deleting<M>>, recorders: Recorders<M>) -> Self {
        let (deleted, statements, before) = (Vec::new(), Vec::new(), Vec::new());
        Self { many, deleted, statements, before, pair, recorders, route: PhantomData }
    }

    fn before(&self, row: usize) -> &SharedBefore {
        self.before.get(row).unwrap_or(&None)
    }

    fn of_row(&self, rows: &[M], row: usize, error: Error) -> Error {
        if self.many { Error::of_row("delete", rows, row, error) } else { error }
    }
}

impl<M: Model, R: Route<M>> Delete<M, R> {
    async fn delete_many(&mut self, rows: &mut Of<'_, M, R>, conn: &mut Conn<'_>) -> Result<()> {
        for chunk in bulk::deletes(conn.kind(), rows) {
            let work = Work::Delete(self.pair.previous);
            let deleted = match self.many {
                true => refused::write(conn, rows, &chunk, work).await?,
                false => bulk::write(conn, rows, &chunk, work).await?,
            };
            if M::STATEMENTS.has(Group::Version) && deleted.len() < chunk.rows.len() {
                let left = bulk::stored(conn, rows, &chunk).await?;
                if let Some(row) = left.into_iter().find(|row| deleted.binary_search(row).is_err())
                {
                    return Err(self.of_row(rows.rows, row, stale(rows, row)));
                }
            }
            self.deleted.extend(deleted);
            self.statements.push(chunk.rows);
        }
        Ok(())
    }
}

impl<M: Model, R: Route<M>> Unit<M> for Delete<M, R> {
    const VERB: &'static str = "delete";

    fn needs(&self, rows: &mut [M], kind: DatabaseKind) -> Needs {
        let mut needs = self.pair.needs();
        // SQLite is asked first which rows are there, and a version that is not the stored one undoes the others.
        let settled = kind == DatabaseKind::Postgres && !M::STATEMENTS.has(Group::Version);
        let mut is_one = || bulk::deletes(kind, &Of::<M, R>::new(rows)).len() == 1;
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
            self.recorders.before(pre_delete::NAME, &rows[row]);
            let event = PreDelete { instance: &rows[row] };
            let done = dispatch(&self.pair.before, event, conn.as_deref_mut(), scene, &None).await;
            done.map_err(|error| self.of_row(rows, row, error))?;
        }
        Ok(())
    }

    async fn write(&mut self, rows: &mut [M], conn: &mut Conn<'_>) -> Result<()> {
        let count = rows.len();
        let entries = (!self.pair.dependents.is_empty()).then(|| rows.iter().map(entry).collect());
        let mut of = Of::<M, R>::new(rows);
        if let Some(entries) = entries {
            Box::pin(cascade(self.pair.dependents, &of, entries, conn)).await?;
        }
        if self.many || self.pair.previous {
            Box::pin(self.delete_many(&mut of, conn)).await?;
        } else if remove(conn, &mut of).await? {
            self.deleted.push(0);
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
        if !self.pair.after.is_empty() {
            for row in self.deleted.iter().copied() {
                let (event, before) = (PostDelete { instance: &rows[row] }, self.before(row));
                let done = dispatch(&self.pair.after, event, Some(&mut *conn), scene, before).await;
                done.map_err(|error| self.of_row(rows, row, error))?;
            }
        }
        if !self.pair.batch.is_empty() {
            for rows in self.batches(rows) {
                let event = PostDeleteBatch { instances: rows };
                dispatch(&self.pair.batch, event, Some(&mut *conn), scene, &None).await?;
            }
        }
        Ok(())
    }

    fn postponed(&self, rows: &[M], scene: &Scene) -> Vec<Box<dyn Deferred>> {
        let mut all = Vec::new();
        if !self.pair.deferred.is_empty() || self.recorders.any() {
            for row in self.deleted.iter().copied() {
                let (event, before) = (PostDelete { instance: &rows[row] }, self.before(row));
                let snapshot = || post_delete::snapshot::<M>(&event);
                let waiting = Postponed::of(&self.pair.deferred, &event, snapshot, scene, before);
                let (of, seen) = (&self.recorders, scene.db.is_some());
                all.extend(of.after(post_delete::NAME, None, &rows[row], seen, waiting));
            }
        }
        if !self.pair.deferred_batch.is_empty() {
            for rows in self.batches(rows) {
                let event = PostDeleteBatch { instances: rows };
                let deferred = &self.pair.deferred_batch;
                let snapshot = || post_delete_batch::snapshot::<M>(&event);
                all.extend(Postponed::of(deferred, &event, snapshot, scene, &None));
            }
        }
        all
    }
}

impl<M: Model, R> Delete<M, R> {
    /// The rows of each statement that were there. Those of one that did not find them all are several slices.
    fn batches<'r>(&self, rows: &'r [M]) -> Vec<&'r [M]> {
        let of_statement = |statement: &Range<usize>| {
            let deleted = self.deleted.iter().copied().filter(|row| statement.contains(row));
            let mut runs: Vec<Range<usize>> = Vec::new();
            for row in deleted {
                match runs.last_mut() {
                    Some(run) if run.end == row => run.end += 1,
                    _ => runs.push(row..row + 1),
                }
            }
            runs.into_iter().map(|run| &rows[run]).collect::<Vec<_>>()
        };
        self.statements.iter().flat_map(of_statement).collect()
    }
}

/// Does to what belongs to the rows what is to be done before they are deleted themselves.
async fn cascade(
    dependents: &[Dependent],
    rows: &dyn Instances,
    mut entries: Vec<RowId>,
    conn: &mut Conn<'_>,
) -> Result<()> {
    if let Some(deleting) = conn.scope.deleting() {
        entries.retain(|entry| deleting.insert(entry.clone()));
    }
    let mut done = Ok(());
    for dependent in dependents {
        done = dependent.cascade(conn, rows).await;
        if done.is_err() {
            break;
        }
    }
    if let Some(deleting) = conn.scope.deleting() {
        entries.iter().for_each(|entry| _ = deleting.remove(entry));
    }
    done
}

/// Deletes the one row that there is, and returns whether it was there.
async fn remove(conn: &mut Conn<'_>, rows: &mut dyn Instances) -> Result<bool> {
    let model = rows.statements();
    let mut args = Arguments::new(conn.kind());
    for column in model.group(Group::Key).chain(model.group(Group::Version)) {
        rows.bind(0, column, &mut args).map_err(sqlx::Error::Encode)?;
    }
    let affected = conn.run(Statement::fixed(model.delete, args), &mut |_| ()).await?;
    if affected == 0 && model.has(Group::Version) && bulk::is_stored(conn, rows, 0).await? {
        return Err(stale(rows, 0));
    }
    Ok(affected > 0)
}
