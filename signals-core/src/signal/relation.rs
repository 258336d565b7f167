//! All models of the program without their types, and their `belongs_to` relations: for cascades and for `Db::check`.

use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use crate::database::backend::DatabaseKind;
use crate::signal::receivers::ReceiverCache;
use crate::signal::rows::SignalRows;
use crate::table::field::Asked;
use crate::table::schema::Schema;

/// One `#[derive(Model)]`. The linker collects the models of all crates.
pub struct RegisteredModel {
    pub(crate) model: fn() -> ModelInfo,
    pub(crate) relations: &'static [Relation],
    pub(crate) sqlite: Option<Ask>,
    pub(crate) postgres: Option<Ask>,
}

inventory::collect!(RegisteredModel);

/// A model and its table without the type of the model.
pub(crate) struct ModelInfo {
    pub(crate) id: TypeId,
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    pub(crate) columns: &'static [&'static str],
    pub(crate) statements: &'static Schema,
    pub(crate) receivers: &'static ReceiverCache,
}

/// A function that describes a model.
#[derive(Clone, Copy)]
pub struct Describe(pub(crate) fn() -> ModelInfo);

/// A function that answers a question about the type of the column with this index.
pub(crate) type Ask = fn(usize, Asked<'_>) -> bool;

/// A column with `belongs_to`: it contains the key of a row of another model, the parent.
pub struct Relation {
    pub(crate) parent: fn() -> TypeId,
    pub(crate) column: usize,
    pub(crate) on_delete: OnDelete,
    pub(crate) sqlite: Option<EmptyRows>,
    pub(crate) postgres: Option<EmptyRows>,
}

/// A function that creates an empty list of rows of a model. Its argument is the only column that the write changes, or `None` if it
/// is not limited to one column.
#[derive(Clone, Copy)]
pub struct EmptyRows(pub(crate) fn(Option<usize>) -> Box<dyn SignalRows>);

impl RegisteredModel {
    /// Registers a model. `sqlite` and `postgres` are `None` if that database cannot store it.
    pub const fn described(
        model: Describe,
        relations: &'static [Relation],
        sqlite: Option<Ask>,
        postgres: Option<Ask>,
    ) -> Self {
        Self { model: model.0, relations, sqlite, postgres }
    }

    /// The model and the function that answers questions about its columns. `None` if this database cannot store the model.
    pub(crate) fn stored_in(&self, kind: DatabaseKind) -> Option<(ModelInfo, Ask)> {
        let ask = match kind {
            DatabaseKind::Sqlite => self.sqlite,
            DatabaseKind::Postgres => self.postgres,
        };
        ask.map(|ask| ((self.model)(), ask))
    }
}

/// A model, the child, with one of its `belongs_to` columns.
#[derive(Clone, Copy)]
pub(crate) struct Dependent {
    child: &'static RegisteredModel,
    relation: &'static Relation,
}

impl Dependent {
    /// The model that has the column.
    pub(crate) fn child(self) -> ModelInfo {
        (self.child.model)()
    }

    /// The index of the column that contains the key of the parent.
    pub(crate) fn column(self) -> usize {
        self.relation.column
    }

    pub(crate) fn on_delete(self) -> OnDelete {
        self.relation.on_delete
    }

    /// Whether this database can store the child.
    pub(crate) fn is_stored_in(self, kind: DatabaseKind) -> bool {
        self.empty_rows(kind).is_some()
    }

    fn empty_rows(self, kind: DatabaseKind) -> Option<EmptyRows> {
        match kind {
            DatabaseKind::Sqlite => self.relation.sqlite,
            DatabaseKind::Postgres => self.relation.postgres,
        }
    }

    /// Whether all `belongs_to` columns of the child have `on_delete = cascade`.
    pub(crate) fn only_cascades(self) -> bool {
        self.child.relations.iter().all(|relation| relation.on_delete == OnDelete::Cascade)
    }

    /// An empty list of rows of the child. `None` if this database cannot store the child.
    pub(crate) fn rows(
        self,
        kind: DatabaseKind,
        field: Option<usize>,
    ) -> Option<Box<dyn SignalRows>> {
        self.empty_rows(kind).map(|EmptyRows(rows)| rows(field))
    }
}

/// The models with a `belongs_to` column for this model, in the order of their names.
pub(crate) fn dependents(parent: TypeId) -> &'static [Dependent] {
    static DEPENDENTS: OnceLock<HashMap<TypeId, Vec<Dependent>>> = OnceLock::new();
    let all = DEPENDENTS.get_or_init(|| {
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        for child in models() {
            for relation in child.relations {
                let dependent = Dependent { child, relation };
                all.entry((relation.parent)()).or_default().push(dependent);
            }
        }
        all
    });
    all.get(&parent).map_or(&[], Vec::as_slice)
}

/// The models whose rows can be deleted by a delete of rows of this model, including the model itself.
pub(crate) fn deleted_with(model: TypeId) -> HashSet<TypeId> {
    let (mut all, mut next) = (HashSet::from([model]), vec![model]);
    while let Some(model) = next.pop() {
        for dependent in dependents(model) {
            let child = dependent.child().id;
            if dependent.on_delete() == OnDelete::Cascade && all.insert(child) {
                next.push(child);
            }
        }
    }
    all
}

/// The registration of a model.
pub(crate) fn registered(model: TypeId) -> Option<&'static RegisteredModel> {
    static REGISTERED: OnceLock<HashMap<TypeId, &'static RegisteredModel>> = OnceLock::new();
    let all = REGISTERED
        .get_or_init(|| models().into_iter().map(|model| ((model.model)().id, model)).collect());
    all.get(&model).copied()
}

/// All models that are linked into the program, in the order of their names.
pub(crate) fn models() -> Vec<&'static RegisteredModel> {
    let mut seen = HashSet::new();
    let mut all: Vec<_> = inventory::iter::<RegisteredModel>.into_iter().collect();
    all.retain(|model| seen.insert((model.model)().id));
    all.sort_by_key(|model| (model.model)().name);
    all
}

/// What happens to a row if its parent, the row that it belongs to, is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDelete {
    /// The row is deleted before its parent.
    Cascade,
    /// The delete of the parent is refused, unless the same delete also deletes the row in another way.
    Restrict,
    /// The column is set to NULL.
    SetNull,
}
