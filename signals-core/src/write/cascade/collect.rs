//! Collects all rows that a delete affects: the rows to delete, and the remaining rows, which
//! reference them but are not deleted. A referenced row is called the parent, and a row that
//! references it the child.

use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};

use super::order::Edge;
use super::statements::{self, References};
use crate::database::backend::{AnyRow, DatabaseKind};
use crate::database::conn::Conn;
use crate::error::{Error, Result};
use crate::signal::operation_context::{OperationContext, check_observable};
use crate::signal::recording::Recorders;
use crate::signal::relation::{Dependent, OnDelete, deleted_with, dependents};
use crate::signal::rows::SignalRows;
use crate::table::chunk;
use crate::table::rows::Rows;
use crate::task::chain;
use crate::write::WriteKind;
use crate::write::key_order::{compares_bytes, write_order};
use crate::write::lookup::stored_rows;
use crate::write::notify::Notifier;

/// Identifies a row by its model and its encoded key.
pub(super) type RowId = (TypeId, Box<[u8]>);

/// A row to delete.
pub(super) struct Node {
    pub(super) group: usize,
    /// The index of the row in its group.
    pub(super) row: usize,
}

/// The rows of one model that are deleted. The first group contains the caller's rows.
pub(super) struct Group<'d> {
    pub(super) rows: GroupRows<'d>,
    pub(super) notifier: Notifier,
    pub(super) context: OperationContext,
}

pub(super) enum GroupRows<'d> {
    Given(&'d mut dyn SignalRows),
    Collected(Box<dyn SignalRows>),
}

impl<'d> Deref for GroupRows<'d> {
    type Target = dyn SignalRows + 'd;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Given(rows) => *rows,
            Self::Collected(rows) => &**rows,
        }
    }
}

impl DerefMut for GroupRows<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Given(rows) => *rows,
            Self::Collected(rows) => &mut **rows,
        }
    }
}

pub(super) struct Collector<'d> {
    pub(super) kind: DatabaseKind,
    /// The models whose rows may be deleted.
    pub(super) deleted_with: HashSet<TypeId>,
    pub(super) groups: Vec<Group<'d>>,
    /// The rows to delete, in the order in which they were collected.
    pub(super) nodes: Vec<Node>,
    /// How many of the nodes are the caller's rows. They come first.
    pub(super) roots: usize,
    /// The references between the nodes.
    pub(super) edges: Vec<Edge>,
    /// The foreign-key column of each edge.
    pub(super) columns: Vec<usize>,
    /// Rows that are deleted without being read (Django's `fast_deletes`), because they have no
    /// receivers and no other rows reference them. Each entry has the relation, the group of the
    /// parent rows, and the parent rows.
    pub(super) fast_deletes: Vec<(Dependent, usize, Vec<usize>)>,
    /// The relations and groups for which remaining rows have to be set to NULL.
    pub(super) to_null: Vec<(Dependent, usize)>,
    /// The node of each row.
    known: HashMap<RowId, usize>,
    /// The group of each model.
    by_model: HashMap<TypeId, usize>,
}

impl<'d> Collector<'d> {
    pub(super) fn new(
        rows: &'d mut dyn SignalRows,
        notifier: &Notifier,
        context: &OperationContext,
        kind: DatabaseKind,
    ) -> Self {
        let deleted_with = deleted_with(rows.id());
        let first = Group {
            rows: GroupRows::Given(rows),
            notifier: notifier.clone(),
            context: context.clone(),
        };
        Self {
            kind,
            deleted_with,
            groups: vec![first],
            nodes: Vec::new(),
            roots: 0,
            edges: Vec::new(),
            columns: Vec::new(),
            fast_deletes: Vec::new(),
            to_null: Vec::new(),
            known: HashMap::new(),
            by_model: HashMap::new(),
        }
    }

    pub(super) fn context(&self) -> &OperationContext {
        &self.groups[0].context
    }

    /// Collects everything from the beginning.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Restricted`] if a remaining row restricts the delete.
    pub(super) async fn collect(&mut self, conn: &mut Conn<'_>) -> Result<()> {
        self.begin(conn).await?;
        let mut level = 0;
        while level < self.nodes.len() {
            let end = self.nodes.len();
            let mut rows = vec![Vec::new(); self.groups.len()];
            self.nodes[level..end].iter().for_each(|node| rows[node.group].push(node.row));
            for (group, rows) in rows.into_iter().enumerate() {
                let parts = statements::parts(conn, &*self.groups[group].rows, rows).await?;
                for dependent in self.dependents(group, OnDelete::Cascade) {
                    for part in &parts {
                        self.collect_children(conn, dependent, group, part).await?;
                    }
                }
            }
            level = end;
        }
        for group in 0..self.groups.len() {
            for dependent in self.dependents(group, OnDelete::Restrict) {
                self.check_restricted(conn, dependent, group).await?;
            }
            for dependent in self.dependents(group, OnDelete::SetNull) {
                if self.any_remains(conn, dependent, group).await? {
                    self.to_null.push((dependent, group));
                }
            }
        }
        Ok(())
    }

    /// Clears everything that was collected, except for the caller's rows.
    async fn begin(&mut self, conn: &mut Conn<'_>) -> Result<()> {
        self.groups.truncate(1);
        self.nodes.clear();
        self.edges.clear();
        self.columns.clear();
        self.fast_deletes.clear();
        self.to_null.clear();
        self.known.clear();
        self.by_model.clear();
        let rows = &*self.groups[0].rows;
        let order = write_order(conn, rows).await?;
        for row in (0..rows.len()).map(|row| order.get(row).copied().unwrap_or(row)) {
            if rows.has_key(row) {
                let id = (rows.id(), rows.as_rows().encoded_key(row, self.kind)?);
                self.known.entry(id).or_insert(self.nodes.len());
                self.nodes.push(Node { group: 0, row });
            }
        }
        self.roots = self.nodes.len();
        self.note_stored_keys(conn).await
    }

    /// Records the stored keys of the caller's rows, which may be written differently, for example
    /// in another case. If one of these rows references a deleted row, it is read with its stored
    /// key, and must not be mistaken for another row.
    async fn note_stored_keys(&mut self, conn: &mut Conn<'_>) -> Result<()> {
        let (kind, rows) = (self.kind, &mut *self.groups[0].rows);
        let mut parents = self.deleted_with.iter().flat_map(|model| dependents(*model));
        let child = parents.find(|dependent| dependent.child().id == rows.id());
        let Some(mut stored) = child.and_then(|child| child.rows(kind, None)) else {
            return Ok(());
        };
        let mut key = rows.schema().group(crate::table::schema::ColumnGroup::Key);
        if key.all(|column| compares_bytes(&rows.type_name(column, kind))) {
            return Ok(());
        }
        for chunk in chunk::deletes(kind, rows) {
            for (row, from) in stored_rows(conn, rows, &chunk).await? {
                let given = (rows.id(), rows.as_rows().encoded_key(row, kind)?);
                stored.truncate(0);
                stored.push(&from, 1)?;
                let id = (rows.id(), stored.as_rows().encoded_key(0, kind)?);
                if let Some(node) = self.known.get(&given).copied() {
                    self.known.entry(id).or_insert(node);
                }
            }
        }
        Ok(())
    }

    /// The relations with this `on_delete` that reference the model of a group.
    fn dependents(
        &self,
        group: usize,
        on_delete: OnDelete,
    ) -> impl Iterator<Item = Dependent> + use<> {
        let all = dependents(self.groups[group].rows.id()).iter().copied();
        all.filter(move |dependent| dependent.on_delete() == on_delete)
    }

    /// Collects the rows that reference some rows of a group and are deleted with them.
    async fn collect_children(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
        part: &[usize],
    ) -> Result<()> {
        if can_fast_delete(dependent) {
            chain::observe("delete", dependent.child().name);
            self.fast_deletes.push((dependent, parents, part.to_vec()));
            return Ok(());
        }
        let Some(group) = self.group(conn, dependent).await? else { return Ok(()) };
        let rows = &*self.groups[parents].rows;
        let select = References { dependent, parents: rows, part }.select_to_delete(conn).await?;
        let mut of = Parents::new(parents, part);
        let mut read = Ok(());
        conn.run(select, &mut |row| {
            if read.is_ok() {
                read = self.add(dependent, &mut of, group, &row);
            }
        })
        .await?;
        Ok(read?)
    }

    /// Returns the group of a model, or `None` if the model cannot be stored in this database.
    async fn group(&mut self, conn: &mut Conn<'_>, dependent: Dependent) -> Result<Option<usize>> {
        let child = dependent.child();
        if let Some(group) = self.by_model.get(&child.id) {
            return Ok(Some(*group));
        }
        let Some(rows) = dependent.rows(self.kind, None) else { return Ok(None) };
        let receivers = child.receivers.delete();
        check_observable(child.name, receivers.needs.deferred, conn).await?;
        let context = OperationContext::enter("delete", child.name, &conn.reborrow().into())?;
        let notifier =
            Notifier::new(WriteKind::Delete, true, receivers, Recorders::of_task(child.id));
        self.groups.push(Group { rows: GroupRows::Collected(rows), notifier, context });
        self.by_model.insert(child.id, self.groups.len() - 1);
        Ok(Some(self.groups.len() - 1))
    }

    /// Adds a row that references one of `parents`, unless it is already known.
    fn add(
        &mut self,
        dependent: Dependent,
        parents: &mut Parents<'_>,
        group: usize,
        from: &AnyRow,
    ) -> Result<(), sqlx::Error> {
        let rows = &mut *self.groups[group].rows;
        let row = rows.len();
        rows.push(from, 0)?;
        let id = (rows.id(), rows.as_rows().encoded_key(row, self.kind)?);
        let parent = rows.as_rows().encoded(row, [dependent.column()], self.kind)?;
        let node = match self.known.get(&id) {
            Some(node) => {
                rows.truncate(row);
                *node
            }
            None => {
                self.nodes.push(Node { group, row });
                self.known.insert(id, self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        };
        self.add_edge(dependent, node, parents, parent);
        Ok(())
    }

    /// Records that a row references one of `parents`.
    fn add_edge(
        &mut self,
        dependent: Dependent,
        child: usize,
        parents: &mut Parents<'_>,
        key: Box<[u8]>,
    ) {
        if let Some(parent) = self.parent(parents, key) {
            let column = dependent.column();
            let optional = dependent.child().statements.columns[column].optional;
            self.edges.push(Edge { child, parent, optional });
            self.columns.push(column);
        }
    }

    /// The row in `parents` that has this key.
    fn parent(&self, parents: &mut Parents<'_>, key: Box<[u8]>) -> Option<usize> {
        let id = (self.groups[parents.group].rows.id(), key);
        let parent = self.known.get(&id).copied();
        parent.or_else(|| self.parent_as_text(parents, &id.1))
    }

    /// The row in `parents` whose key equals this text in the database, although it is written
    /// differently: in another case, or with other trailing spaces. If a collation considers still
    /// other texts equal, the row is found only if it is the only parent.
    fn parent_as_text(&self, parents: &mut Parents<'_>, key: &[u8]) -> Option<usize> {
        let rows = &*self.groups[parents.group].rows;
        let node = |row: usize| {
            let key = rows.as_rows().encoded_key(row, self.kind).ok()?;
            self.known.get(&(rows.id(), key)).copied()
        };
        if let [row] = parents.rows {
            return node(*row);
        }
        let folded = parents.folded.get_or_insert_with(|| {
            let keys =
                parents.rows.iter().map(|row| (rows.as_rows().encoded_key(*row, self.kind), *row));
            keys.filter_map(|(key, row)| Some((folded(&key.ok()?), row))).collect()
        });
        node(*folded.get(&self::folded(key))?)
    }

    /// # Errors
    ///
    /// Returns [`Error::Restricted`] if a row that is not deleted references a row of the group.
    async fn check_restricted(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
    ) -> Result<()> {
        let are_counted = self.deleted_with.contains(&dependent.child().id);
        for part in self.parts(conn, parents).await? {
            let restrict = match are_counted {
                true => self.parents_of_remaining(conn, dependent, parents, &part).await?,
                false => self.parent_of_any(conn, dependent, parents, &part).await?,
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
        dependent: Dependent,
        parents: usize,
        part: &[usize],
    ) -> Result<Vec<Option<usize>>> {
        let (mut keys, kind) = (Vec::new(), self.kind);
        let stays = &mut |row: &dyn Rows| {
            keys.push(row.encoded(0, [dependent.column()], kind)?);
            Ok(())
        };
        self.for_each_remaining(conn, dependent, parents, part, stays).await?;
        let mut of = Parents::new(parents, part);
        let parents = keys.into_iter().map(|key| self.parent(&mut of, key));
        Ok(parents.map(|parent| parent.map(|node| self.nodes[node].row)).collect())
    }

    /// For any one row that references some rows of the group, the row that it references, if that
    /// is known. Used only for a model of which no row is deleted.
    async fn parent_of_any(
        &self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
        part: &[usize],
    ) -> Result<Vec<Option<usize>>> {
        let rows = &*self.groups[parents].rows;
        // With several parents, the row has to be read to find out which of them it references.
        let mut child = dependent.rows(self.kind, None).filter(|_| part.len() > 1);
        let any = References { dependent, parents: rows, part }.any(conn, child.is_some()).await?;
        let mut found = None;
        conn.run(any, &mut |row| found = Some(row)).await?;
        let Some(row) = found else { return Ok(Vec::new()) };
        if let [parent] = part {
            return Ok(vec![Some(*parent)]);
        }
        let mut key = || {
            let child = child.as_mut()?;
            child.push(&row, 0).ok()?;
            child.as_rows().encoded(0, [dependent.column()], self.kind).ok()
        };
        let node = key().and_then(|key| self.parent(&mut Parents::new(parents, part), key));
        Ok(vec![node.map(|node| self.nodes[node].row)])
    }

    /// The rows of a group, split into parts that fit into one statement.
    pub(super) async fn parts(&self, conn: &mut Conn<'_>, group: usize) -> Result<Vec<Vec<usize>>> {
        let rows = &*self.groups[group].rows;
        statements::parts(conn, rows, 0..rows.len()).await
    }

    /// Whether remaining rows reference the group. Returns `true` without a query if no row of the
    /// model is deleted.
    async fn any_remains(
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
                self.for_each_remaining(conn, dependent, parents, &part, stays).await?;
            }
        }
        Ok(remains)
    }

    /// Calls `stays` for each remaining row that references some rows of the group. References from
    /// rows that are deleted are recorded.
    async fn for_each_remaining(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
        part: &[usize],
        stays: &mut (dyn FnMut(&dyn Rows) -> Result<(), sqlx::Error> + Send),
    ) -> Result<()> {
        let Some(mut rows) = dependent.rows(self.kind, None) else { return Ok(()) };
        let of_group = &*self.groups[parents].rows;
        let select = References { dependent, parents: of_group, part }.select(conn).await?;
        let mut of = Parents::new(parents, part);
        let mut read = Ok(());
        conn.run(select, &mut |row| {
            if read.is_ok() {
                read = match self.record_if_deleted(dependent, &mut of, &mut *rows, &row) {
                    Ok(false) => stays(&*rows),
                    noted => noted.map(drop),
                };
            }
        })
        .await?;
        Ok(read?)
    }

    /// Returns whether a row that references one of `parents` is deleted too, and records the
    /// reference if so.
    fn record_if_deleted(
        &mut self,
        dependent: Dependent,
        parents: &mut Parents<'_>,
        rows: &mut dyn SignalRows,
        from: &AnyRow,
    ) -> Result<bool, sqlx::Error> {
        rows.truncate(0);
        rows.push(from, 0)?;
        let id = (rows.id(), rows.as_rows().encoded_key(0, self.kind)?);
        let Some(node) = self.known.get(&id).copied() else { return Ok(false) };
        let parent = rows.as_rows().encoded(0, [dependent.column()], self.kind)?;
        self.add_edge(dependent, node, parents, parent);
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

/// Some rows of a group that may be referenced by other rows.
struct Parents<'p> {
    group: usize,
    rows: &'p [usize],
    /// The rows by their keys, ignoring case and trailing spaces.
    folded: Option<HashMap<String, usize>>,
}

impl<'p> Parents<'p> {
    fn new(group: usize, rows: &'p [usize]) -> Self {
        Self { group, rows, folded: None }
    }
}

/// A key in lower case, without trailing spaces.
fn folded(key: &[u8]) -> String {
    // The encoding begins with the length.
    let text = String::from_utf8_lossy(key.get(8..).unwrap_or_default());
    text.trim_end().to_lowercase()
}

/// Whether rows of a model can be deleted without being read: they have no receivers, no other rows
/// reference them, and they cannot be among the rows that restrict the delete or remain.
fn can_fast_delete(dependent: Dependent) -> bool {
    let child = dependent.child();
    dependent.only_cascades()
        && child.receivers.delete_if_any().is_none()
        && !Recorders::of_task(child.id).any()
}
