//! Every model of the program, without its type: for what the library does to rows of models that the caller has not named.

use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use crate::database::backend::DatabaseKind;
use crate::signal::receivers::ReceiverCache;
use crate::signal::rows::SignalRows;
use crate::table::field::Asked;
use crate::table::schema::Schema;

/// A model, as it is collected at link time.
pub struct RegisteredModel {
    pub(crate) model: fn() -> ModelInfo,
    pub(crate) relations: &'static [Relation],
    pub(crate) sqlite: Option<Ask>,
    pub(crate) postgres: Option<Ask>,
}

inventory::collect!(RegisteredModel);

/// A model and its table, without the type.
pub(crate) struct ModelInfo {
    pub(crate) id: TypeId,
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    pub(crate) columns: &'static [&'static str],
    pub(crate) statements: &'static Schema,
    pub(crate) receivers: &'static ReceiverCache,
}

/// Describes a model.
#[derive(Clone, Copy)]
pub struct Describe(pub(crate) fn() -> ModelInfo);

/// Asks something of the type of a column of a model.
pub(crate) type Ask = fn(usize, Asked<'_>) -> bool;

/// A column of a model that is the key of a row of another.
pub struct Relation {
    pub(crate) parent: fn() -> TypeId,
    pub(crate) column: usize,
    pub(crate) on_delete: OnDelete,
    pub(crate) sqlite: Option<EmptyRows>,
    pub(crate) postgres: Option<EmptyRows>,
}

/// Makes a place for rows of a model, with none in it yet; and if receivers are told of one column only, of which.
#[derive(Clone, Copy)]
pub struct EmptyRows(pub(crate) fn(Option<usize>) -> Box<dyn SignalRows>);

impl RegisteredModel {
    /// A model of this description.
    pub const fn described(
        model: Describe,
        relations: &'static [Relation],
        sqlite: Option<Ask>,
        postgres: Option<Ask>,
    ) -> Self {
        Self { model: model.0, relations, sqlite, postgres }
    }

    /// The model, and how its columns are read, where this database can store it.
    pub(crate) fn stored_in(&self, kind: DatabaseKind) -> Option<(ModelInfo, Ask)> {
        let ask = match kind {
            DatabaseKind::Sqlite => self.sqlite,
            DatabaseKind::Postgres => self.postgres,
        };
        ask.map(|ask| ((self.model)(), ask))
    }
}

/// A model whose rows belong to those of another.
#[derive(Clone, Copy)]
pub(crate) struct Dependent {
    child: &'static RegisteredModel,
    relation: &'static Relation,
}

impl Dependent {
    /// The model that belongs to the other.
    pub(crate) fn child(self) -> ModelInfo {
        (self.child.model)()
    }

    /// The place of the column that is the key of the other.
    pub(crate) fn column(self) -> usize {
        self.relation.column
    }

    pub(crate) fn on_delete(self) -> OnDelete {
        self.relation.on_delete
    }

    /// Whether the model belongs to others in no way but this one: its rows are deleted with those.
    pub(crate) fn only_cascades(self) -> bool {
        self.child.relations.iter().all(|relation| relation.on_delete == OnDelete::Cascade)
    }

    /// A place for rows of the model; none where no row of it can be in this database.
    pub(crate) fn rows(
        self,
        kind: DatabaseKind,
        field: Option<usize>,
    ) -> Option<Box<dyn SignalRows>> {
        let children = match kind {
            DatabaseKind::Sqlite => self.relation.sqlite,
            DatabaseKind::Postgres => self.relation.postgres,
        };
        children.map(|EmptyRows(rows)| rows(field))
    }
}

/// The models whose rows belong to those of this model, in the order of their names.
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

/// The models of which rows can be deleted together with rows of this one, itself included.
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

/// Every model that is linked into the program, in the order of their names.
pub(crate) fn models() -> Vec<&'static RegisteredModel> {
    let mut seen = HashSet::new();
    let mut all: Vec<_> = inventory::iter::<RegisteredModel>.into_iter().collect();
    all.retain(|linked| seen.insert((linked.model)().id));
    all.sort_by_key(|linked| (linked.model)().name);
    all
}

/// What becomes of a row when the one that it belongs to is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDelete {
    /// It is deleted first.
    Cascade,
    /// The other is not deleted, unless this one is deleted by the same delete.
    Restrict,
    /// It belongs to none from then on.
    SetNull,
}
