//! Every model of the program, without its type: for what the library does to rows of models that the caller has not named.

use std::any::TypeId;
use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::OnceLock;

use crate::backend::DatabaseKind;
use crate::cascade::OnDelete;
use crate::field::Asked;
use crate::instances::{Instances, Of};
use crate::model::Model;
use crate::statements::Statements;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::store::{Only, Route, Store};
use crate::table::Table;

/// A model, as it is collected at link time.
pub struct Linked {
    model: fn() -> Described,
    relations: &'static [Relation],
    sqlite: Option<Ask>,
    postgres: Option<Ask>,
}

inventory::collect!(Linked);

/// A model and its table, without the type.
pub(crate) struct Described {
    pub(crate) id: TypeId,
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    pub(crate) columns: &'static [&'static str],
    pub(crate) statements: &'static Statements,
    pub(crate) receivers: &'static Table,
}

impl Described {
    pub(crate) fn of<M: Model>() -> Self {
        Self {
            id: TypeId::of::<M>(),
            name: M::NAME,
            table: M::TABLE,
            columns: M::COLUMNS,
            statements: M::STATEMENTS,
            receivers: M::__table(),
        }
    }
}

/// Describes a model.
#[derive(Clone, Copy)]
pub struct Describe(fn() -> Described);

/// Asks something of the type of a column of a model.
pub(crate) type Ask = fn(usize, Asked<'_>) -> bool;

/// A column of a model that is the key of a row of another.
pub struct Relation {
    parent: fn() -> TypeId,
    column: usize,
    on_delete: OnDelete,
    sqlite: Option<Children>,
    postgres: Option<Children>,
}

/// Makes a place for rows of a model, with none in it yet; and if receivers are told of one column only, of which.
#[derive(Clone, Copy)]
pub struct Children(fn(Option<usize>) -> Box<dyn Instances>);

/// How to copy a `T`: its own constant is there where it is `Clone`, else that of [`NotCloned`].
pub struct CopyOf<T>(PhantomData<T>);

/// Copies several `T`, where that can be done.
pub type Copier<T> = Option<fn(&[T]) -> Vec<T>>;

/// Of every type, that nobody knows how to copy it.
pub trait NotCloned {
    /// What would be copied.
    type Of;
    /// Nobody knows.
    const COPY: Copier<Self::Of> = None;
}

impl<T> NotCloned for CopyOf<T> {
    type Of = T;
}

impl<T: Clone> CopyOf<T> {
    /// As `Clone` does it.
    pub const COPY: Copier<T> = Some(<[T]>::to_vec);
}

/// Of a model, which of the databases can store it: its own constants are there where one can, else those of
/// [`NotStored`].
pub struct StoredIn<M>(PhantomData<M>);

/// Of every type, that no database can store it.
pub trait NotStored {
    /// It is no model, which is an error of its derive.
    const DESCRIBED: Describe = Describe(|| unreachable!("the build has failed at this model"));
    /// In no SQLite.
    const SQLITE: Option<Ask> = None;
    /// In no Postgres.
    const POSTGRES: Option<Ask> = None;
    /// No rows in SQLite belong to others.
    const SQLITE_CHILDREN: Option<Children> = None;
    /// No rows in Postgres belong to others.
    const POSTGRES_CHILDREN: Option<Children> = None;
}

impl<M> NotStored for StoredIn<M> {}

impl<M: Model> StoredIn<M> {
    /// What is known of the model without its type.
    pub const DESCRIBED: Describe = Describe(Described::of::<M>);
}

macro_rules! stored_in {
    ($feature:literal, $DB:ident, $ask:ident, $children:ident) => {
        #[cfg(feature = $feature)]
        impl<M: Store<sqlx::$DB>> StoredIn<M> {
            /// What is asked of the types of the columns.
            pub const $ask: Option<Ask> = Some(<Only<sqlx::$DB> as Route<M>>::asked);
            /// Rows that belong to others. Apart, for it is not to be compiled for a model that belongs to none.
            pub const $children: Option<Children> =
                Some(Children(|field| Of::<M, Only<sqlx::$DB>>::owned(field).boxed()));
        }
    };
}

stored_in!("sqlite", Sqlite, SQLITE, SQLITE_CHILDREN);
stored_in!("postgres", Postgres, POSTGRES, POSTGRES_CHILDREN);

impl Linked {
    /// The model `M`.
    pub const fn new<M: Model>(
        relations: &'static [Relation],
        sqlite: Option<Ask>,
        postgres: Option<Ask>,
    ) -> Self {
        Self::described(Describe(Described::of::<M>), relations, sqlite, postgres)
    }

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
    pub(crate) fn stored_in(&self, kind: DatabaseKind) -> Option<(Described, Ask)> {
        let ask = match kind {
            DatabaseKind::Sqlite => self.sqlite,
            DatabaseKind::Postgres => self.postgres,
        };
        ask.map(|ask| ((self.model)(), ask))
    }
}

impl Relation {
    /// The column at this place is the key of a row of `P`.
    pub const fn new<P: Model>(
        column: usize,
        on_delete: OnDelete,
        sqlite: Option<Children>,
        postgres: Option<Children>,
    ) -> Self {
        Self { parent: TypeId::of::<P>, column, on_delete, sqlite, postgres }
    }
}

/// A model whose rows belong to those of another.
#[derive(Clone, Copy)]
pub(crate) struct Dependent {
    child: &'static Linked,
    relation: &'static Relation,
}

impl Dependent {
    /// The model that belongs to the other.
    pub(crate) fn child(self) -> Described {
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
    ) -> Option<Box<dyn Instances>> {
        let children = match kind {
            DatabaseKind::Sqlite => self.relation.sqlite,
            DatabaseKind::Postgres => self.relation.postgres,
        };
        children.map(|Children(rows)| rows(field))
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
pub(crate) fn models() -> Vec<&'static Linked> {
    let mut seen = HashSet::new();
    let mut all: Vec<_> = inventory::iter::<Linked>.into_iter().collect();
    all.retain(|linked| seen.insert((linked.model)().id));
    all.sort_by_key(|linked| (linked.model)().name);
    all
}
