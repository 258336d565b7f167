//! The remaining rows: those that reference a deleted row, but are not deleted themselves.

use super::collect::{Collector, Parents};
use crate::database::backend::AnyRow;
use crate::database::conn::Conn;
use crate::error::{Error, Result};
use crate::signal::relation::Dependent;
use crate::signal::rows::SignalRows;
use crate::table::rows::Rows;

impl Collector<'_> {
    /// # Errors
    ///
    /// Returns [`Error::Restricted`] if a row that is not deleted references a row of the group.
    pub(super) async fn check_restricted(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
    ) -> Result<()> {
        let are_counted = self.deleted_with.contains(&dependent.child().id);
        for part in self.parts(conn, parents).await? {
            let mut of = Parents::new(dependent, parents, &part);
            let restrict = match are_counted {
                true => self.parents_of_remaining(conn, &mut of).await?,
                false => self.parent_of_any(conn, &mut of).await?,
            };
            let Some(first) = restrict.first() else { continue };
            let rows = &*self.groups[parents].rows;
            let one = || format!("(one of {} rows)", part.len());
            let of_first = || restrict.iter().filter(|parent| *parent == first).count();
            let child = dependent.child();
            return Err(Error::Restricted {
                model: rows.model(),
                key: first.map_or_else(one, |row| rows.key(row)),
                by: child.name,
                column: child.columns[dependent.column()],
                rows: first.filter(|_| are_counted).map(|_| of_first()),
            });
        }
        Ok(())
    }

    /// For each remaining row that references some rows of the group, the row that it references,
    /// if that is known.
    async fn parents_of_remaining(
        &mut self,
        conn: &mut Conn<'_>,
        parents: &mut Parents<'_>,
    ) -> Result<Vec<Option<usize>>> {
        let (mut keys, column, kind) = (Vec::new(), parents.dependent.column(), self.kind);
        let stays = &mut |row: &dyn Rows| {
            keys.push(row.encoded(0, [column], kind)?);
            Ok(())
        };
        self.for_each_remaining(conn, parents, stays).await?;
        let found = keys.into_iter().map(|key| self.parent(parents, key));
        Ok(found.map(|parent| parent.map(|node| self.nodes[node].row)).collect())
    }

    /// For any one row that references some rows of the group, the row that it references, if that
    /// is known. Used only for a model of which no row is deleted.
    async fn parent_of_any(
        &self,
        conn: &mut Conn<'_>,
        parents: &mut Parents<'_>,
    ) -> Result<Vec<Option<usize>>> {
        let dependent = parents.dependent;
        // With several parents, the row has to be read to find out which of them it references.
        let mut child = dependent.rows(self.kind, None).filter(|_| parents.rows.len() > 1);
        let any = self.references(parents).any(conn, child.is_some()).await?;
        let mut found = None;
        conn.run(any, &mut |row| found = Some(row)).await?;
        let Some(row) = found else { return Ok(Vec::new()) };
        if let [parent] = parents.rows {
            return Ok(vec![Some(*parent)]);
        }
        let mut key = || {
            let child = child.as_mut()?;
            child.push(&row, 0).ok()?;
            child.as_rows().encoded(0, [dependent.column()], self.kind).ok()
        };
        let node = key().and_then(|key| self.parent(parents, key));
        Ok(vec![node.map(|node| self.nodes[node].row)])
    }

    /// Whether remaining rows reference the group. Returns `true` without a query if no row of the
    /// model is deleted.
    pub(super) async fn any_remains(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
    ) -> Result<bool> {
        let mut remains = !self.deleted_with.contains(&dependent.child().id);
        if !remains {
            for part in self.parts(conn, parents).await? {
                let stays = &mut |_: &dyn Rows| {
                    remains = true;
                    Ok(())
                };
                let mut of = Parents::new(dependent, parents, &part);
                self.for_each_remaining(conn, &mut of, stays).await?;
            }
        }
        Ok(remains)
    }

    /// Calls `stays` for each remaining row that references some rows of the group. References from
    /// rows that are deleted are recorded.
    async fn for_each_remaining(
        &mut self,
        conn: &mut Conn<'_>,
        parents: &mut Parents<'_>,
        stays: &mut (dyn FnMut(&dyn Rows) -> Result<(), sqlx::Error> + Send),
    ) -> Result<()> {
        let Some(mut rows) = parents.dependent.rows(self.kind, None) else { return Ok(()) };
        let select = self.references(parents).select(conn).await?;
        let mut take = |row| match self.record_if_deleted(parents, &mut *rows, &row)? {
            true => Ok(()),
            false => stays(&*rows),
        };
        conn.read_each(select, &mut take).await
    }

    /// Returns whether a row that references one of `parents` is deleted too, and records the
    /// reference if so.
    fn record_if_deleted(
        &mut self,
        parents: &mut Parents<'_>,
        rows: &mut dyn SignalRows,
        from: &AnyRow,
    ) -> Result<bool, sqlx::Error> {
        rows.truncate(0);
        rows.push(from, 0)?;
        let id = (rows.id(), rows.as_rows().encoded_key(0, self.kind)?);
        let Some(node) = self.known.get(&id).copied() else { return Ok(false) };
        let key = rows.as_rows().encoded(0, [parents.dependent.column()], self.kind)?;
        self.add_edge(parents, node, key);
        Ok(true)
    }

    /// Appends a row to `rows`, unless it is deleted.
    pub(super) fn push_unless_collected(
        &self,
        rows: &mut dyn SignalRows,
        from: &AnyRow,
    ) -> Result<(), sqlx::Error> {
        let row = rows.len();
        rows.push(from, 0)?;
        if self.known.contains_key(&(rows.id(), rows.as_rows().encoded_key(row, self.kind)?)) {
            rows.truncate(row);
        }
        Ok(())
    }
}
