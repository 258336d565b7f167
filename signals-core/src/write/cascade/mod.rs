//! Deletes rows together with the rows that reference them.
//!
//! The steps are those of [Django's
//! collector](https://github.com/django/django/blob/stable/5.2.x/django/db/models/deletion.py).
//! First, all rows to delete are collected, level by level. Then the remaining rows are checked:
//! one of them may restrict the delete. Only then are receivers notified and rows written. No
//! function calls itself for the next level, so the stack depth does not depend on the length of a
//! chain of rows.

pub(crate) mod collect;
pub(crate) mod order;
pub(crate) mod remaining;
pub(crate) mod statements;

use std::collections::{BTreeMap, HashMap, HashSet};

use collect::{Collector, Group, Node, RowId};
use futures_util::future::BoxFuture;
use order::{Edge, Order, Run, order};
use statements::References;

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
use crate::write::delete::{RowOrigin, delete_chunk, delete_rows, lock_versions};
use crate::write::lookup::stored_rows;
use crate::write::notify::Notifier;
use crate::write::{WriteKind, WriteOutcome, save, track};

/// Deletes rows of a model that other models reference, together with the referencing rows. Boxed,
/// so that the futures of other deletes stay small.
pub(crate) fn delete<'d>(
    rows: &'d mut dyn SignalRows,
    conn: &'d mut Conn<'_>,
    notifier: &'d Notifier,
    context: &'d OperationContext,
) -> BoxFuture<'d, Result<WriteOutcome>> {
    Box::pin(async move {
        let mut collector = Collector::new(rows, notifier, context, conn.kind());
        collector.collect(conn).await?;
        collector.lock_versions(conn).await?;
        collector.notify_before(conn).await?;
        collector.write(conn).await
    })
}

impl Collector<'_> {
    /// Locks the caller's rows if they have versions. The dependent rows are locked before, as by a transaction that writes one of them, then
    /// the row that it refers to. Others may have been inserted while this transaction waited.
    async fn lock_versions(&mut self, conn: &mut Conn<'_>) -> Result<()> {
        if !self.has_versions() {
            return Ok(());
        }
        let Group { rows, notifier, .. } = &mut self.groups[0];
        self.root_origin = lock_versions(&mut **rows, conn, notifier).await?;
        match self.kind {
            DatabaseKind::Postgres if self.root_origin == RowOrigin::Locked => {
                self.collect(conn).await
            }
            _ => Ok(()),
        }
    }

    /// Runs the receivers before the deletes. If they have used the connection, rows may have been
    /// added, removed or changed: everything is collected again, and the receivers are notified of
    /// the rows that are new.
    async fn notify_before(&mut self, conn: &mut Conn<'_>) -> Result<()> {
        let mut notified = HashSet::new();
        let limit = chain::recursion_limit();
        for round in 0.. {
            let before = conn.state.statements;
            let new = self.notify_new(conn, &mut notified, round == 0).await?;
            if new == 0 || conn.state.statements == before {
                return Ok(());
            }
            if round == limit {
                return Err(self.context().operation.recursion(limit));
            }
            self.collect(conn).await?;
        }
        Ok(())
    }

    /// Notifies the receivers of the rows that they have not been notified of, and returns the
    /// number of those rows.
    async fn notify_new(
        &mut self,
        conn: &mut Conn<'_>,
        notified: &mut HashSet<RowId>,
        first: bool,
    ) -> Result<usize> {
        let mut new = 0;
        // The caller's rows in the order of the slice, then the other rows in the order in which
        // they were collected.
        let mut order: Vec<_> = (0..self.nodes.len()).collect();
        order[..self.roots].sort_unstable_by_key(|node| self.nodes[*node].row);
        let before = conn.state.statements;
        for (place, node) in order.into_iter().enumerate() {
            if place == self.roots && conn.state.statements != before {
                // The receivers of the caller's rows may have deleted other rows.
                return Ok(new);
            }
            let group = &mut self.groups[self.nodes[node].group];
            if group.notifier.is_before_empty() {
                continue;
            }
            let row = self.nodes[node].row;
            let is_new = notified
                .insert((group.rows.id(), group.rows.as_rows().encoded_key(row, self.kind)?));
            // Two of the caller's rows can have the same key. Each gets its own event.
            if is_new || (first && node < self.roots) {
                new += 1;
                let rows = &mut *group.rows;
                group
                    .notifier
                    .notify_before_row(rows, row, Some(&mut *conn), &group.context)
                    .await?;
            }
        }
        Ok(new)
    }

    /// Executes the delete: rows that need not be read, then columns to set to NULL, then the
    /// collected rows, each before the rows that it references.
    async fn write(&mut self, conn: &mut Conn<'_>) -> Result<WriteOutcome> {
        for (dependent, group, part) in &self.fast_deletes {
            let parents = &*self.groups[*group].rows;
            let delete = References { dependent: *dependent, parents, part }.delete(conn).await?;
            conn.run(delete, &mut |_| ()).await?;
        }
        for (dependent, group) in std::mem::take(&mut self.to_null) {
            self.set_null(conn, dependent, group).await?;
        }
        let groups: Vec<_> = self.nodes.iter().map(|node| node.group).collect();
        let Order { runs, broken } = order(&groups, &self.edges);
        self.load_previous(conn, &broken).await?;
        self.break_cycles(conn, &broken).await?;
        self.delete_runs(conn, runs).await
    }

    /// Sets the column to NULL in the remaining rows that reference rows of a group.
    async fn set_null(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        group: usize,
    ) -> Result<()> {
        let (child, column) = (dependent.child(), dependent.column());
        let needs_save = child.receivers.save_if_any().is_some()
            || child.statements.has_times()
            || Recorders::of_task(child.id).any();
        for part in self.parts(conn, group).await? {
            let parents = &*self.groups[group].rows;
            let references = References { dependent, parents, part: &part };
            if !needs_save && !self.deleted_with.contains(&child.id) {
                chain::observe("save", child.name);
                let update = references.set_null(conn).await?;
                conn.run(update, &mut |_| ()).await?;
                continue;
            }
            let select = references.select_as_null(conn).await?;
            let Some(mut rows) = dependent.rows(self.kind, Some(column)) else { continue };
            conn.read_each(select, &mut |row| self.push_unless_collected(&mut *rows, &row)).await?;
            let kind = WriteKind::Fields(with_times(vec![column], child.statements).into());
            save::many(&mut *rows, conn.reborrow().into(), kind).await?;
        }
        Ok(())
    }

    /// Reads the rows whose columns are set to NULL before they are deleted, if receivers ask for the previous rows.
    async fn load_previous(&mut self, conn: &mut Conn<'_>, broken: &[usize]) -> Result<()> {
        let mut groups: BTreeMap<usize, HashMap<usize, usize>> = BTreeMap::new();
        for edge in broken {
            let node = self.edges[*edge].child;
            let Node { group, row } = self.nodes[node];
            if self.groups[group].notifier.receivers.previous {
                groups.entry(group).or_default().insert(row, node);
            }
        }
        for (group, nodes) in groups {
            let rows = &*self.groups[group].rows;
            for chunk in chunk::deletes(conn.kind(), rows) {
                for (row, from) in stored_rows(conn, rows, &chunk).await? {
                    if let Some(node) = nodes.get(&row) {
                        self.previous.insert(*node, rows.load(&from, 1)?);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sets columns to NULL in rows that are deleted afterwards, because no order of the deletes
    /// satisfies all references. This is part of the delete, so it sends no save signals.
    async fn break_cycles(&self, conn: &mut Conn<'_>, broken: &[usize]) -> Result<()> {
        let mut columns: Vec<((usize, usize), Vec<usize>)> = Vec::new();
        for edge in broken {
            let Edge { child, column, .. } = self.edges[*edge];
            let node = &self.nodes[child];
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
        // Collected rows are sorted into the order in which they are deleted, so that the rows of
        // one statement are adjacent. The caller's rows stay in place and only get a write order.
        let deletes_at_once = !is_ordered(&runs) && self.root_origin == RowOrigin::Given;
        for (number, group) in self.groups.iter_mut().enumerate() {
            let own = runs.iter().filter(|run| run.group == number);
            let rows = own.flat_map(|run| &run.rows).map(|(node, _)| self.nodes[*node].row);
            let rows: Vec<_> = rows.collect();
            match number {
                0 if deletes_at_once => {}
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
        let rows = &mut *self.groups[0].rows;
        rows.set_order(Vec::new());
        for (node, Node { row, .. }) in self.nodes[..self.roots].iter().enumerate() {
            if let Some(previous) = self.previous.remove(&node) {
                rows.as_rows_mut().previous_of(*row).set_row(previous);
            }
        }
        written.kept.sort_unstable();
        Ok(written)
    }

    /// Deletes collected rows, and runs the receivers after the statements.
    async fn delete_run(&mut self, conn: &mut Conn<'_>, run: &Run, start: usize) -> Result<()> {
        let group = &mut self.groups[run.group];
        let (rows, notifier) = (&mut *group.rows, &mut group.notifier);
        let mut batches = Vec::new();
        for chunk in chunks_of_run(rows, conn, run, start) {
            let origin = RowOrigin::Collected;
            let deleted = delete_chunk(rows, conn, notifier, &chunk, origin).await?;
            batches.extend(chunk::runs(deleted.rows.into_iter()));
        }
        notifier.written = WriteOutcome::several(None, batches);
        if notifier.receivers.previous {
            for (row, (node, _)) in (start..).zip(&run.rows) {
                if let Some(previous) = self.previous.remove(node) {
                    rows.as_rows_mut().previous_of(row).set_row(previous);
                }
            }
            notifier.previous_rows.resize_with(rows.len(), || None);
            for row in start..start + run.rows.len() {
                notifier.previous_rows[row] =
                    Some(std::mem::take(rows.as_rows_mut().previous_of(row)).into());
            }
        }
        notifier.check_values(rows.as_rows(), &group.context)?;
        for deferred in notifier.deferred(rows, conn, &group.context) {
            conn.state.defer(deferred);
        }
        if notifier.is_stored() {
            notifier.store(rows, conn, &group.context).await?;
        }
        track::track(notifier, rows, conn, &group.context).await?;
        notifier.notify_after(rows, Some(conn), &group.context).await
    }

    /// Whether the caller's rows have versions.
    fn has_versions(&self) -> bool {
        self.groups[0].rows.schema().has(ColumnGroup::Version)
    }

    /// Deletes the caller's rows. Their receivers run after everything is deleted.
    async fn delete_roots(
        &mut self,
        conn: &mut Conn<'_>,
        run: &Run,
        start: usize,
    ) -> Result<WriteOutcome> {
        let origin = self.root_origin;
        let group = &mut self.groups[0];
        if origin == RowOrigin::Given
            && run.rows.len() == self.roots
            && run.rows.iter().all(|(_, depth)| *depth == 0)
        {
            return delete_rows(&mut *group.rows, conn, &group.notifier).await;
        }
        let (rows, notifier) = (&mut *group.rows, &group.notifier);
        let (mut batches, mut kept) = (Vec::new(), Vec::new());
        for chunk in chunks_of_run(rows, conn, run, start) {
            let deleted = delete_chunk(rows, conn, notifier, &chunk, origin).await?;
            batches.extend(chunk::slices(rows, deleted.rows.into_iter()));
            kept.extend(deleted.kept);
        }
        Ok(WriteOutcome { kept, ..WriteOutcome::several(None, batches) })
    }
}

/// Whether the caller's rows must be deleted in an order other than that of the slice.
fn is_ordered(runs: &[Run]) -> bool {
    let mut roots = runs.iter().filter(|run| run.group == 0);
    let first = roots.next();
    roots.next().is_some() || first.is_some_and(|run| run.rows.iter().any(|(_, depth)| *depth > 0))
}

/// Splits a run, whose rows begin at index `start`, into the chunks that delete it.
///
/// On SQLite, no statement contains both a row and a row that references it, because `ON DELETE
/// RESTRICT` is checked in the middle of the statement.
fn chunks_of_run(rows: &dyn SignalRows, conn: &Conn<'_>, run: &Run, start: usize) -> Vec<Chunk> {
    let apart = conn.kind() == DatabaseKind::Sqlite;
    let binds: Vec<_> = rows.schema().group(ColumnGroup::Key).collect();
    let levels = run.rows.chunk_by(|(_, depth), (_, other)| !apart || depth == other);
    let mut at = start;
    let chunks = levels.flat_map(|level| {
        let range = at..at + level.len();
        at = range.end;
        chunk::chunks(conn.kind(), rows, range, &binds)
    });
    chunks.collect()
}
