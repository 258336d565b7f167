//! A delete with receivers, of one row or of several.

use std::ops::Range;
use std::sync::Arc;

use crate::backend::{Arguments, DatabaseKind, Statement};
use crate::bulk::{self, Work};
use crate::cascade::entry;
use crate::chunk;
use crate::conn::Conn;
use crate::context;
use crate::dispatch::{Postponed, dispatch};
use crate::error::{Error, Result};
use crate::executor::Source;
use crate::instances::{Instances, Of, Telling, Told};
use crate::linked::Dependent;
use crate::model::Model;
use crate::previous::SharedBefore;
use crate::refused;
use crate::save::stale;
use crate::scope::RowId;
use crate::signal::{Signal, post_delete, pre_delete};
use crate::statements::Group;
use crate::store::Route;
use crate::table::Pair;
use crate::testing::recording::Recorders;
use crate::transaction::Deferred;
use crate::unit::{Doubt, Needs, Scene, Unit, perform, traced};

/// Deletes one row, and returns whether there was one.
pub(crate) async fn delete<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
) -> Result<bool> {
    if model.pk().is_none() {
        return Ok(false);
    }
    let deleted = one(&mut Of::<M, R>::one(model), source).await?;
    model.__set_pk(None);
    Ok(deleted)
}

/// Deletes the one row that there is.
async fn one(rows: &mut dyn Instances, source: Source<'_>) -> Result<bool> {
    let (table, recorders) = (rows.table(), Recorders::of_task(rows.id()));
    let span = tracing::debug_span!("delete", model = rows.model());
    if let Some(pair) = table.heard_delete().or_else(|| recorders.any().then(|| table.delete())) {
        let unit = Delete::new(false, pair, recorders);
        return Ok(perform(unit, rows, source, span).await?.deleted == [0]);
    }
    context::observe("delete", rows.model());
    let mut conn = source.acquire().await?;
    if span.is_disabled() {
        alone(rows, &mut conn).await
    } else {
        traced(span, alone(rows, &mut conn)).await
    }
}

/// Deletes a row that nobody hears of.
async fn alone(rows: &mut dyn Instances, conn: &mut Conn<'_>) -> Result<bool> {
    let doubt = Doubt::of(conn, "delete", rows.model());
    let done = remove(doubt.conn, rows).await;
    doubt.end(done)
}

/// Deletes several rows, and returns how many there were. A row without a key is none.
pub(crate) async fn delete_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
) -> Result<u64> {
    let deleted = many(&mut Of::<M, R>::new(rows), source).await?;
    rows.iter_mut().for_each(|row| row.__set_pk(None));
    Ok(deleted)
}

async fn many(rows: &mut dyn Instances, source: Source<'_>) -> Result<u64> {
    if !(0..rows.len()).any(|row| rows.has_key(row)) {
        return Ok(0);
    }
    let span = tracing::debug_span!("delete", model = rows.model(), rows = rows.len());
    let recorders = Recorders::of_task(rows.id());
    let unit = Delete::new(true, rows.table().delete(), recorders);
    Ok(perform(unit, rows, source, span).await?.deleted.len() as u64)
}

/// A delete with receivers.
#[derive(Clone)]
struct Delete {
    many: bool,
    /// The rows that were there.
    deleted: Vec<usize>,
    /// The rows of each statement.
    statements: Vec<Range<usize>>,
    /// What each row was before, where that is asked for.
    before: Vec<SharedBefore>,
    pair: Arc<Pair>,
    recorders: Recorders,
}

impl Delete {
    fn new(many: bool, pair: Arc<Pair>, recorders: Recorders) -> Self {
        let (deleted, statements, before) = (Vec::new(), Vec::new(), Vec::new());
        Self { many, deleted, statements, before, pair, recorders }
    }

    fn before(&self, row: usize) -> &SharedBefore {
        self.before.get(row).unwrap_or(&None)
    }

    fn of_row(&self, rows: &dyn Instances, place: usize, error: Error) -> Error {
        if self.many { Error::of_row("delete", rows, place, error) } else { error }
    }

    async fn delete_many(&mut self, rows: &mut dyn Instances, conn: &mut Conn<'_>) -> Result<()> {
        for chunk in chunk::deletes(conn.kind(), rows) {
            let work = Work::Delete(self.pair.previous);
            let deleted = match self.many {
                true => refused::write(conn, rows, &chunk, work).await?,
                false => bulk::write(conn, rows, &chunk, work).await?,
            };
            if rows.statements().has(Group::Version) && deleted.len() < chunk.rows.len() {
                let left = bulk::stored(conn, rows, &chunk).await?;
                if let Some(row) = left.into_iter().find(|row| deleted.binary_search(row).is_err())
                {
                    return Err(self.of_row(rows, row, stale(rows, row)));
                }
            }
            self.deleted.extend(deleted);
            self.statements.push(chunk.rows);
        }
        Ok(())
    }

    /// The rows of each statement that were there. Those of one that did not find them all are several slices.
    fn batches(&self) -> Vec<Range<usize>> {
        let of_statement = |statement: &Range<usize>| {
            chunk::runs(self.deleted.iter().copied().filter(|row| statement.contains(row)))
        };
        self.statements.iter().flat_map(of_statement).collect()
    }
}

impl Unit for Delete {
    const VERB: &'static str = "delete";

    fn needs(&self, rows: &dyn Instances, kind: DatabaseKind) -> Needs {
        let mut needs = self.pair.needs(rows.can_copy());
        // SQLite is asked first which rows are there, and a version that is not the stored one undoes the others.
        let versioned = rows.statements().has(Group::Version);
        let settled = kind == DatabaseKind::Postgres && !versioned;
        let is_one = || chunk::deletes(kind, rows).len() == 1;
        needs.transaction |= self.many && !(settled && is_one());
        needs
    }

    async fn before(
        &self,
        rows: &mut dyn Instances,
        mut conn: Option<&mut Conn<'_>>,
        scene: &Scene,
    ) -> Result<()> {
        if self.pair.before.is_empty() && !self.recorders.any() {
            return Ok(());
        }
        for row in 0..rows.len() {
            self.recorders.before(pre_delete::NAME, rows.at(row));
            let mut event = Telling { rows: &mut *rows, told: Told::PreDelete(row) };
            let conn = conn.as_deref_mut();
            let done = dispatch(&self.pair.before, &mut event, conn, scene, &None).await;
            done.map_err(|error| self.of_row(rows, row, error))?;
        }
        Ok(())
    }

    async fn write(&mut self, rows: &mut dyn Instances, conn: &mut Conn<'_>) -> Result<()> {
        if !self.pair.dependents.is_empty() {
            let entries = (0..rows.len()).map(|row| entry(rows.at(row))).collect();
            Box::pin(cascade(self.pair.dependents, rows, entries, conn)).await?;
        }
        if self.many || self.pair.previous {
            Box::pin(self.delete_many(rows, conn)).await?;
        } else if remove(conn, rows).await? {
            self.deleted.push(0);
            self.statements.push(0..1);
        }
        if self.pair.previous {
            self.before = rows.take_before();
        }
        Ok(())
    }

    async fn after(
        &self,
        rows: &mut dyn Instances,
        conn: &mut Conn<'_>,
        scene: &Scene,
    ) -> Result<()> {
        if !self.pair.after.is_empty() {
            for row in self.deleted.iter().copied() {
                let mut event = Telling { rows: &mut *rows, told: Told::PostDelete(row) };
                let (after, conn) = (&self.pair.after, Some(&mut *conn));
                let done = dispatch(after, &mut event, conn, scene, self.before(row)).await;
                done.map_err(|error| self.of_row(rows, row, error))?;
            }
        }
        if !self.pair.batch.is_empty() {
            for batch in self.batches() {
                let mut event = Telling { rows: &mut *rows, told: Told::PostDeleteBatch(batch) };
                let conn = Some(&mut *conn);
                dispatch(&self.pair.batch, &mut event, conn, scene, &None).await?;
            }
        }
        Ok(())
    }

    fn postponed(&self, rows: &mut dyn Instances, scene: &Scene) -> Vec<Box<dyn Deferred>> {
        let mut all = Vec::new();
        if !self.pair.deferred.is_empty() || self.recorders.any() {
            for row in self.deleted.iter().copied() {
                let event = Telling { rows: &mut *rows, told: Told::PostDelete(row) };
                let waiting = Postponed::of(&self.pair.deferred, &event, scene, self.before(row));
                let (of, seen) = (&self.recorders, scene.db.is_some());
                all.extend(of.after(post_delete::NAME, None, rows.at(row), seen, waiting));
            }
        }
        if !self.pair.deferred_batch.is_empty() {
            for batch in self.batches() {
                let event = Telling { rows: &mut *rows, told: Told::PostDeleteBatch(batch) };
                all.extend(Postponed::of(&self.pair.deferred_batch, &event, scene, &None));
            }
        }
        all
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
