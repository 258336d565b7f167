//! Everything that a delete is about: the rows that are deleted, and those that stay and belong to one of them.

use crate::table::chunk;
use crate::table::rows::Rows;
use crate::write::bulk;
use crate::write::key_order::compares_bytes;
use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};

use super::order::Edge;
use super::statements;
use crate::database::backend::{AnyRow, DatabaseKind};
use crate::database::conn::Conn;
use crate::error::{Error, Result};
use crate::signal::operation_context::{OperationContext, check_observable};
use crate::signal::recording::Recorders;
use crate::signal::relation::OnDelete;
use crate::signal::relation::{Dependent, deleted_with, dependents};
use crate::signal::rows::SignalRows;
use crate::task::chain;
use crate::write::WriteKind;
use crate::write::key_order::write_order;
use crate::write::notify::Notifier;

/// A row of a model, by the key as the database is given it.
pub(super) type RowId = (TypeId, Box<[u8]>);

/// A row that is deleted.
pub(super) struct Node {
    pub(super) group: usize,
    pub(super) row: usize,
}

/// The rows of one model that are deleted; the first group has the rows of the program.
pub(super) struct Group<'d> {
    pub(super) rows: GroupRows<'d>,
    pub(super) heard: Notifier,
    pub(super) scene: OperationContext,
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
    /// The models of which rows can be deleted.
    pub(super) deleted_with: HashSet<TypeId>,
    pub(super) groups: Vec<Group<'d>>,
    /// The rows that are deleted, in the order in which they were found.
    pub(super) nodes: Vec<Node>,
    /// How many of them are the program's.
    pub(super) roots: usize,
    /// Which of them belong to which.
    pub(super) edges: Vec<Edge>,
    /// The column of each edge.
    pub(super) columns: Vec<usize>,
    /// GroupRows that nobody hears of and to which nothing can belong, by the rows of a group that they belong to. They are not
    /// read.
    pub(super) unheard: Vec<(Dependent, usize, Vec<usize>)>,
    /// The columns in which there are rows that stay and belong to rows of a group.
    pub(super) to_null: Vec<(Dependent, usize)>,
    known: HashMap<RowId, usize>,
    by_model: HashMap<TypeId, usize>,
}

impl<'d> Collector<'d> {
    pub(super) fn new(
        rows: &'d mut dyn SignalRows,
        heard: &Notifier,
        scene: &OperationContext,
        kind: DatabaseKind,
    ) -> Self {
        let deleted_with = deleted_with(rows.id());
        let first =
            Group { rows: GroupRows::Given(rows), heard: heard.clone(), scene: scene.clone() };
        Self {
            kind,
            deleted_with,
            groups: vec![first],
            nodes: Vec::new(),
            roots: 0,
            edges: Vec::new(),
            columns: Vec::new(),
            unheard: Vec::new(),
            to_null: Vec::new(),
            known: HashMap::new(),
            by_model: HashMap::new(),
        }
    }

    pub(super) fn scene(&self) -> &OperationContext {
        &self.groups[0].scene
    }

    /// Collects everything anew.
    ///
    /// # Errors
    ///
    /// [`Error::Restricted`] where a row that stays restricts the delete.
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
                        self.children(conn, dependent, group, part).await?;
                    }
                }
            }
            level = end;
        }
        for group in 0..self.groups.len() {
            for dependent in self.dependents(group, OnDelete::Restrict) {
                self.restricted(conn, dependent, group).await?;
            }
            for dependent in self.dependents(group, OnDelete::SetNull) {
                if self.is_any_left(conn, dependent, group).await? {
                    self.to_null.push((dependent, group));
                }
            }
        }
        Ok(())
    }

    /// Forgets what was collected so far but the rows of the program.
    async fn begin(&mut self, conn: &mut Conn<'_>) -> Result<()> {
        self.groups.truncate(1);
        self.nodes.clear();
        self.edges.clear();
        self.columns.clear();
        self.unheard.clear();
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

    /// Takes note of the keys of the program's rows as they are stored, which may be written in another way: in another case, for
    /// example. If one of these rows belongs to a row that is deleted, it is read with the stored key, and must not be taken for
    /// another row.
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
            for (row, from) in bulk::stored_rows(conn, rows, &chunk).await? {
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

    /// The models of this kind that belong to the model of a group.
    fn dependents(
        &self,
        group: usize,
        on_delete: OnDelete,
    ) -> impl Iterator<Item = Dependent> + use<> {
        let all = dependents(self.groups[group].rows.id()).iter().copied();
        all.filter(move |dependent| dependent.on_delete() == on_delete)
    }

    /// Collects the rows that belong to some of a group and are deleted with them.
    async fn children(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
        part: &[usize],
    ) -> Result<()> {
        if is_unheard(dependent) {
            chain::observe("delete", dependent.child().name);
            self.unheard.push((dependent, parents, part.to_vec()));
            return Ok(());
        }
        let Some(group) = self.group(conn, dependent).await? else { return Ok(()) };
        let rows = &*self.groups[parents].rows;
        let select = statements::select_to_delete(conn, dependent, rows, part).await?;
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

    /// The group of the rows of a model; none where no row of it can be in this database.
    async fn group(&mut self, conn: &mut Conn<'_>, dependent: Dependent) -> Result<Option<usize>> {
        let child = dependent.child();
        if let Some(group) = self.by_model.get(&child.id) {
            return Ok(Some(*group));
        }
        let Some(rows) = dependent.rows(self.kind, None) else { return Ok(None) };
        let pair = child.receivers.delete();
        check_observable(child.name, pair.needs.deferred, conn).await?;
        let scene = OperationContext::enter("delete", child.name, &conn.reborrow().into())?;
        let heard = Notifier::new(WriteKind::Delete, true, pair, Recorders::of_task(child.id));
        self.groups.push(Group { rows: GroupRows::Collected(rows), heard, scene });
        self.by_model.insert(child.id, self.groups.len() - 1);
        Ok(Some(self.groups.len() - 1))
    }

    /// Adds a row that belongs to one of `parents`, unless it is known already.
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
        self.connect(dependent, node, parents, parent);
        Ok(())
    }

    /// Takes note that a row belongs to one of `parents`.
    fn connect(
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

    /// The one of `parents` that has this key.
    fn parent(&self, parents: &mut Parents<'_>, key: Box<[u8]>) -> Option<usize> {
        let id = (self.groups[parents.group].rows.id(), key);
        let parent = self.known.get(&id).copied();
        parent.or_else(|| self.parent_as_text(parents, &id.1))
    }

    /// The one of `parents` whose key is this text for the database, although it is not written the same: in another case, or
    /// with other spaces at the end. With a collation that takes still other texts for equal, it is found only if it is the one
    /// parent.
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
    /// [`Error::Restricted`] where a row belongs to one of the group and is not deleted itself.
    async fn restricted(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
    ) -> Result<()> {
        let are_counted = self.deleted_with.contains(&dependent.child().id);
        for part in self.parts(conn, parents).await? {
            let restrict = match are_counted {
                true => self.parents_of_left(conn, dependent, parents, &part).await?,
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

    /// For each row that belongs to some of the group and stays, the row that it belongs to, if that is known.
    async fn parents_of_left(
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
        self.left(conn, dependent, parents, part, stays).await?;
        let mut of = Parents::new(parents, part);
        let parents = keys.into_iter().map(|key| self.parent(&mut of, key));
        Ok(parents.map(|parent| parent.map(|node| self.nodes[node].row)).collect())
    }

    /// For any one row that belongs to some of the group, the row that it belongs to, if that is known. Only of a model of
    /// which no row is deleted.
    async fn parent_of_any(
        &self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
        part: &[usize],
    ) -> Result<Vec<Option<usize>>> {
        let rows = &*self.groups[parents].rows;
        // With several parents, the row says to which of them it belongs.
        let mut child = dependent.rows(self.kind, None).filter(|_| part.len() > 1);
        let any = statements::any(conn, dependent, rows, part, child.is_some()).await?;
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

    /// The rows of a group, as many together as a statement is about.
    pub(super) async fn parts(&self, conn: &mut Conn<'_>, group: usize) -> Result<Vec<Vec<usize>>> {
        let rows = &*self.groups[group].rows;
        statements::parts(conn, rows, 0..rows.len()).await
    }

    /// Whether rows belong to the group and stay. Where none of the model is deleted, it is not looked for any.
    async fn is_any_left(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
    ) -> Result<bool> {
        let mut left = !self.deleted_with.contains(&dependent.child().id);
        if !left {
            for part in self.parts(conn, parents).await? {
                let stays = &mut |_: &dyn Rows| {
                    left = true;
                    Ok(())
                };
                self.left(conn, dependent, parents, &part, stays).await?;
            }
        }
        Ok(left)
    }

    /// Gives each row that belongs to some of the group and stays to `stays`. Those that are deleted are noted.
    async fn left(
        &mut self,
        conn: &mut Conn<'_>,
        dependent: Dependent,
        parents: usize,
        part: &[usize],
        stays: &mut (dyn FnMut(&dyn Rows) -> Result<(), sqlx::Error> + Send),
    ) -> Result<()> {
        let Some(mut rows) = dependent.rows(self.kind, None) else { return Ok(()) };
        let of_group = &*self.groups[parents].rows;
        let select = statements::select(conn, dependent, of_group, part).await?;
        let mut of = Parents::new(parents, part);
        let mut read = Ok(());
        conn.run(select, &mut |row| {
            if read.is_ok() {
                read = match self.note(dependent, &mut of, &mut *rows, &row) {
                    Ok(false) => stays(&*rows),
                    noted => noted.map(drop),
                };
            }
        })
        .await?;
        Ok(read?)
    }

    /// Whether a row that belongs to one of `parents` is deleted too.
    fn note(
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
        self.connect(dependent, node, parents, parent);
        Ok(true)
    }

    /// Adds a row to others, unless it is deleted.
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

/// Some rows of a group, to which others belong.
struct Parents<'p> {
    group: usize,
    rows: &'p [usize],
    /// The rows by their keys, whose case and spaces at the end are ignored.
    folded: Option<HashMap<String, usize>>,
}

impl<'p> Parents<'p> {
    fn new(group: usize, rows: &'p [usize]) -> Self {
        Self { group, rows, folded: None }
    }
}

/// A key without its case and the spaces at its end.
fn folded(key: &[u8]) -> String {
    // The length comes first.
    let text = String::from_utf8_lossy(key.get(8..).unwrap_or_default());
    text.trim_end().to_lowercase()
}

/// Whether rows of a model can be deleted without being read: nobody hears of them, nothing belongs to them, and they cannot
/// be among those that restrict the delete or stay.
fn is_unheard(dependent: Dependent) -> bool {
    let child = dependent.child();
    dependent.only_cascades()
        && child.receivers.delete_if_any().is_none()
        && !Recorders::of_task(child.id).any()
}
