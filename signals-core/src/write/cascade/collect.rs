//! Collects the rows to delete. A referenced row is called the parent, and a row that references it
//! the child.

use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::order::Edge;
use super::statements::{self, References};
use crate::database::backend::{AnyRow, DatabaseKind};
use crate::database::conn::Conn;
use crate::error::Result;
use crate::signal::operation_context::{OperationContext, check_observable};
use crate::signal::recording::Recorders;
use crate::signal::relation::{Dependent, OnDelete, deleted_with, dependents};
use crate::signal::rows::SignalRows;
use crate::table::any::AnyModel;
use crate::table::chunk;
use crate::task::chain;
use crate::write::WriteKind;
use crate::write::delete::RowOrigin;
use crate::write::key_order::{compares_bytes, write_order};
use crate::write::lookup::stored_rows;
use crate::write::notify::Notifier;

/// Identifies a row by its model and its encoded key.
pub(super) type RowId = (TypeId, Box<[u8]>);

/// A row to delete.
#[derive(Clone, Copy)]
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
    /// Whether the caller's rows are locked.
    pub(super) root_origin: RowOrigin,
    /// The references between the nodes.
    pub(super) edges: Vec<Edge>,
    /// Rows that are deleted without being read (Django's `fast_deletes`), because they have no
    /// receivers and no other rows reference them. Each entry has the relation, the group of the
    /// parent rows, and the parent rows.
    pub(super) fast_deletes: Vec<(Dependent, usize, Vec<usize>)>,
    /// The relations and groups for which remaining rows have to be set to NULL.
    pub(super) to_null: Vec<(Dependent, usize)>,
    /// The previous rows of the nodes whose columns are set to NULL before they are deleted, if receivers ask for them.
    pub(super) previous: HashMap<usize, Arc<dyn AnyModel>>,
    /// The node of each row.
    pub(super) known: HashMap<RowId, usize>,
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
            root_origin: RowOrigin::Given,
            edges: Vec::new(),
            fast_deletes: Vec::new(),
            to_null: Vec::new(),
            previous: HashMap::new(),
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

    /// The relations with this `on_delete` that reference the model of a group. A model that this database cannot store has no rows in it.
    fn dependents(
        &self,
        group: usize,
        on_delete: OnDelete,
    ) -> impl Iterator<Item = Dependent> + use<> {
        let (all, kind) = (dependents(self.groups[group].rows.id()).iter().copied(), self.kind);
        all.filter(move |dependent| {
            dependent.on_delete() == on_delete && dependent.is_stored_in(kind)
        })
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
        let mut parents = Parents::new(dependent, parents, part);
        let select = self.references(&parents).select_to_delete(conn).await?;
        conn.read_each(select, &mut |row| self.add(&mut parents, group, &row)).await
    }

    pub(super) fn references<'p>(&'p self, parents: &Parents<'p>) -> References<'p> {
        let Parents { dependent, group, rows: part, .. } = *parents;
        References { dependent, parents: &*self.groups[group].rows, part }
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
        parents: &mut Parents<'_>,
        group: usize,
        from: &AnyRow,
    ) -> Result<(), sqlx::Error> {
        let rows = &mut *self.groups[group].rows;
        let row = rows.len();
        rows.push(from, 0)?;
        let id = (rows.id(), rows.as_rows().encoded_key(row, self.kind)?);
        let parent = rows.as_rows().encoded(row, [parents.dependent.column()], self.kind)?;
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
        self.add_edge(parents, node, parent);
        Ok(())
    }

    /// Records that a row references one of `parents`.
    pub(super) fn add_edge(&mut self, parents: &mut Parents<'_>, child: usize, key: Box<[u8]>) {
        if let Some(parent) = self.parent(parents, key) {
            let column = parents.dependent.column();
            let optional = parents.dependent.child().statements.columns[column].optional;
            self.edges.push(Edge { child, parent, column, optional });
        }
    }

    /// The row in `parents` that has this key.
    pub(super) fn parent(&self, parents: &mut Parents<'_>, key: Box<[u8]>) -> Option<usize> {
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

    /// The rows of a group, split into parts that fit into one statement.
    pub(super) async fn parts(&self, conn: &mut Conn<'_>, group: usize) -> Result<Vec<Vec<usize>>> {
        let rows = &*self.groups[group].rows;
        statements::parts(conn, rows, 0..rows.len()).await
    }
}

/// Some rows of a group that may be referenced by rows of another model.
pub(super) struct Parents<'p> {
    pub(super) dependent: Dependent,
    pub(super) group: usize,
    pub(super) rows: &'p [usize],
    /// The rows by their keys, ignoring case and trailing spaces.
    folded: Option<HashMap<String, usize>>,
}

impl<'p> Parents<'p> {
    pub(super) fn new(dependent: Dependent, group: usize, rows: &'p [usize]) -> Self {
        Self { dependent, group, rows, folded: None }
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
