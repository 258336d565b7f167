//! A delete together with the rows that belong to the deleted rows.
//!
//! The steps are those of [Django's collector](https://github.com/django/django/blob/stable/5.2.x/django/db/models/deletion.py):
//! first everything that is to be deleted is collected, level by level; then it is decided whether a row that stays keeps
//! the others from being deleted; only then are receivers told and rows written. Nothing here calls itself for the rows of the
//! next level, so that the stack is as deep for a long chain of rows as for one row.
pub(crate) mod collect;
pub(crate) mod order;
pub(crate) mod statements;

use std::collections::HashSet;

use futures_util::future::BoxFuture;

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::error::Result;
use crate::signal::operation_context::OperationContext;
use crate::signal::recording::Recorders;
use crate::signal::relation::Dependent;
use crate::signal::rows::SignalRows;
use crate::table::chunk::{self, Chunk};
use crate::table::column::with_times;
use crate::table::schema::ColumnGroup;
use crate::task::chain;
use crate::write::SaveKind;
use crate::write::WriteOutcome;
use crate::write::delete::{delete_chunk, delete_rows};
use crate::write::notify::Notifier;
use crate::write::save;

use collect::{Collector, RowId};
use order::{Order, Run, order};

/// Deletes rows of a model to which other models belong, with what belongs to them. On the heap, so that other deletes have
/// no room for it.
pub(crate) fn delete<'d>(
    rows: &'d mut dyn SignalRows,
    conn: &'d mut Conn<'_>,
    heard: &'d Notifier,
    scene: &'d OperationContext,
) -> BoxFuture<'d, Result<WriteOutcome>> {
    Box::pin(async move {
        let mut collector = Collector::new(rows, heard, scene, conn.kind());
        collector.collect(conn).await?;
        collector.tell_before(conn).await?;
        collector.write(conn).await
    })
}

impl Collector<'_> {
    /// Tells the receivers ahead of the deletes. Where they have used the connection, rows may have come, gone or moved: all
    /// is collected and decided again, and the receivers are told of the rows that they were not told of.
    async fn tell_before(&mut self, conn: &mut Conn<'_>) -> Result<()> {
        let mut told = HashSet::new();
        let limit = chain::recursion_limit();
        for round in 0.. {
            let before = conn.state.statements;
            let new = self.tell_new(conn, &mut told, round == 0).await?;
            if new == 0 || conn.state.statements == before {
                return Ok(());
            }
            if round == limit {
                return Err(self.scene().operation.recursion(limit));
            }
            self.collect(conn).await?;
        }
        Ok(())
    }

    /// Tells the receivers of the rows that they were not told of, and returns how many those are.
    async fn tell_new(
        &mut self,
        conn: &mut Conn<'_>,
        told: &mut HashSet<RowId>,
        first: bool,
    ) -> Result<usize> {
        let mut new = 0;
        // The rows of the program in its order, and the others as they were found.
        let mut order: Vec<_> = (0..self.nodes.len()).collect();
        order[..self.roots].sort_unstable_by_key(|node| self.nodes[*node].row);
        for node in order {
            let group = &mut self.groups[self.nodes[node].group];
            if group.heard.is_silent_before() {
                continue;
            }
            let row = self.nodes[node].row;
            let is_new =
                told.insert((group.rows.id(), group.rows.as_rows().encoded_key(row, self.kind)?));
            // Two rows of the program can have the same key.
            if is_new || (first && node < self.roots) {
                new += 1;
                let rows = &mut *group.rows;
                group.heard.tell_before_row(rows, row, Some(&mut *conn), &group.scene).await?;
            }
        }
        Ok(new)
    }

    /// Writes what was decided: rows that nobody hears of, columns that are set to NULL, and then the rows that were collected,
    /// each before those that it belongs to.
    async fn write(&mut self, conn: &mut Conn<'_>) -> Result<WriteOutcome> {
        for (dependent, group, part) in &self.unheard {
            let parents = &*self.groups[*group].rows;
            let delete = statements::delete(conn, *dependent, parents, part).await?;
            conn.run(delete, &mut |_| ()).await?;
        }
        for (dependent, group) in std::mem::take(&mut self.to_null) {
            self.set_null(conn, dependent, group).await?;
        }
        let groups: Vec<_> = self.nodes.iter().map(|node| node.group).collect();
        let Order { runs, broken } = order(&groups, &self.edges);
        self.break_circles(conn, &broken).await?;
        self.delete_runs(conn, runs).await
    }

    /// Sets the column to NULL in the rows that belong to the rows of a group and stay.
    async fn set_null(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        group: usize,
    ) -> Result<()> {
        let (child, column) = (dependent.child(), dependent.column());
        let heard = child.receivers.save_if_any().is_some()
            || child.statements.has_times()
            || Recorders::of_task(child.id).any();
        for part in self.parts(conn, group).await? {
            let parents = &*self.groups[group].rows;
            if !heard && !self.deleted_with.contains(&child.id) {
                let update = statements::set_null(conn, dependent, parents, &part).await?;
                conn.run(update, &mut |_| ()).await?;
                continue;
            }
            let select = statements::select_as_null(conn, dependent, parents, &part).await?;
            let Some(mut rows) = dependent.rows(self.kind, Some(column)) else { continue };
            let mut read = Ok(());
            conn.run(select, &mut |row| {
                if read.is_ok() {
                    read = self.push_unless_collected(&mut *rows, &row);
                }
            })
            .await?;
            read?;
            let verb = SaveKind::Fields(with_times(vec![column], child.statements).into());
            save::many(&mut *rows, conn.reborrow().into(), verb).await?;
        }
        Ok(())
    }

    /// Sets columns to NULL in rows that are deleted, because no order of the deletes respects them. It is part of the deletes:
    /// no save is told.
    async fn break_circles(&self, conn: &mut Conn<'_>, broken: &[usize]) -> Result<()> {
        let mut columns: Vec<((usize, usize), Vec<usize>)> = Vec::new();
        for edge in broken {
            let (node, column) = (&self.nodes[self.edges[*edge].child], self.columns[*edge]);
            let of = (node.group, column);
            match columns.iter_mut().find(|(known, _)| *known == of) {
                Some((_, rows)) => rows.push(node.row),
                None => columns.push((of, vec![node.row])),
            }
        }
        for ((group, column), rows) in columns {
            let all = &*self.groups[group].rows;
            for part in rows.chunks(statements::PARENTS) {
                let update = statements::set_own_null(self.kind, all, part, column)?;
                conn.run(update, &mut |_| ()).await?;
            }
        }
        Ok(())
    }

    async fn delete_runs(&mut self, conn: &mut Conn<'_>, runs: Vec<Run>) -> Result<WriteOutcome> {
        // The rows of the library's own are brought into the order in which they are deleted, so that those of a statement are
        // side by side. Those of the program stay where they are.
        for (number, group) in self.groups.iter_mut().enumerate() {
            let own = runs.iter().filter(|run| run.group == number);
            let rows = own.flat_map(|run| &run.rows).map(|(node, _)| self.nodes[*node].row);
            let rows: Vec<_> = rows.collect();
            match number {
                0 if !is_ordered(&runs) => {}
                0 => group.rows.set_order(rows),
                _ => group.rows.reorder(&rows),
            }
        }
        let mut done = vec![0; self.groups.len()];
        let mut written = WriteOutcome::default();
        for run in runs {
            let start = done[run.group];
            done[run.group] += run.rows.len();
            if run.group > 0 {
                self.delete_run(conn, &run, start).await?;
            } else {
                let WriteOutcome { batches, kept, .. } =
                    self.delete_roots(conn, &run, start).await?;
                written.batches.to_mut().extend(batches.iter().cloned());
                written.kept.extend(kept);
            }
        }
        self.groups[0].rows.set_order(Vec::new());
        written.kept.sort_unstable();
        Ok(written)
    }

    /// Deletes rows that were collected, and tells the receivers behind the statements.
    async fn delete_run(&mut self, conn: &mut Conn<'_>, run: &Run, start: usize) -> Result<()> {
        let group = &mut self.groups[run.group];
        let (rows, heard) = (&mut *group.rows, &mut group.heard);
        let mut batches = Vec::new();
        for chunk in chunks_of_run(rows, conn, run, start, false) {
            let deleted = delete_chunk(rows, conn, heard, &chunk, false).await?;
            batches.extend(chunk::runs(deleted.rows.into_iter()));
        }
        heard.written = WriteOutcome::several(None, batches);
        if heard.pair.previous {
            heard.before.resize_with(rows.len(), || None);
            for row in start..start + run.rows.len() {
                heard.before[row] =
                    Some(std::mem::take(rows.as_rows_mut().previous_of(row)).into());
            }
        }
        for postponed in heard.postponed(rows, &group.scene) {
            conn.state.defer(postponed);
        }
        heard.tell_after(rows, Some(conn), &group.scene).await
    }

    /// Deletes the rows of the program. Their receivers are told when everything is deleted.
    async fn delete_roots(
        &mut self,
        conn: &mut Conn<'_>,
        run: &Run,
        start: usize,
    ) -> Result<WriteOutcome> {
        let group = &mut self.groups[0];
        if run.rows.len() == self.roots && run.rows.iter().all(|(_, depth)| *depth == 0) {
            return delete_rows(&mut *group.rows, conn, &group.heard).await;
        }
        let (rows, heard) = (&mut *group.rows, &group.heard);
        let (mut batches, mut kept) = (Vec::new(), Vec::new());
        for chunk in chunks_of_run(rows, conn, run, start, true) {
            let deleted = delete_chunk(rows, conn, heard, &chunk, true).await?;
            batches.extend(chunk::runs(deleted.rows.into_iter().map(|row| rows.place(row))));
            kept.extend(deleted.kept);
        }
        Ok(WriteOutcome { kept, ..WriteOutcome::several(None, batches) })
    }
}

/// Whether the rows of the program must be deleted in an order that is not theirs.
fn is_ordered(runs: &[Run]) -> bool {
    let mut roots = runs.iter().filter(|run| run.group == 0);
    let first = roots.next();
    roots.next().is_some() || first.is_some_and(|run| run.rows.iter().any(|(_, depth)| *depth > 0))
}

/// The statements that delete the rows of a run, which begin at this place. On SQLite, no statement has both a row and one
/// that belongs to it: `ON DELETE RESTRICT` counts there in the middle of a statement. The same where versions are checked: a
/// stale row stays, and is the error, not the constraint of the row that it belongs to.
fn chunks_of_run(
    rows: &dyn SignalRows,
    conn: &Conn<'_>,
    run: &Run,
    start: usize,
    checked: bool,
) -> Vec<Chunk> {
    let model = rows.schema();
    let version: Vec<_> = model.group(ColumnGroup::Version).filter(|_| checked).collect();
    let apart = conn.kind() == DatabaseKind::Sqlite || !version.is_empty();
    let binds: Vec<_> = model.group(ColumnGroup::Key).chain(version).collect();
    let levels = run.rows.chunk_by(|(_, depth), (_, other)| !apart || depth == other);
    let mut at = start;
    let chunks = levels.flat_map(|level| {
        let range = at..at + level.len();
        at = range.end;
        chunk::chunks(conn.kind(), rows, range, &binds)
    });
    chunks.collect()
}
