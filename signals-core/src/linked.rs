//! Every model of the program, without its type: for what the library does to rows of models that the caller has not named.

use std::any::TypeId;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::OnceLock;

use futures_util::future::BoxFuture;

use crate::backend::{AnyType, DatabaseKind};
use crate::cascade::{self, OnDelete};
use crate::conn::Conn;
use crate::error::Result;
use crate::instances::Instances;
use crate::model::Model;
use crate::statements::Statements;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::store::{Only, Route, Store};
use crate::table::Table;

/// A model, as it is collected at link time.
pub struct Linked {
    model: fn() -> Described,
    relations: &'static [Relation],
    sqlite: Option<Fits>,
    postgres: Option<Fits>,
}

inventory::collect!(Linked);

/// A model and its table, without the type.
pub(crate) struct Described {
    id: TypeId,
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

/// Whether a column of a model can be read where the database has it as this type.
pub(crate) type Fits = fn(usize, &AnyType) -> bool;

/// A column of a model that is the key of a row of another.
pub struct Relation {
    parent: fn() -> TypeId,
    column: usize,
    on_delete: OnDelete,
    sqlite: Option<Children>,
    postgres: Option<Children>,
}

/// Does to the rows that belong to some that are about to be deleted what is to be done before.
#[derive(Clone, Copy)]
pub struct Children(
    for<'c> fn(&'c mut Conn<'_>, usize, OnDelete, &'c dyn Instances) -> BoxFuture<'c, Result<()>>,
);

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
    /// In no SQLite.
    const SQLITE: Option<Fits> = None;
    /// In no Postgres.
    const POSTGRES: Option<Fits> = None;
    /// No rows in SQLite belong to others.
    const SQLITE_CHILDREN: Option<Children> = None;
    /// No rows in Postgres belong to others.
    const POSTGRES_CHILDREN: Option<Children> = None;
}

impl<M> NotStored for StoredIn<M> {}

macro_rules! stored_in {
    ($feature:literal, $DB:ident, $fits:ident, $children:ident) => {
        #[cfg(feature = $feature)]
        impl<M: Store<sqlx::$DB>> StoredIn<M> {
            /// Whether a column can be read.
            pub const $fits: Option<Fits> = Some(<Only<sqlx::$DB> as Route<M>>::fits);
            /// What becomes of rows that belong to others. Apart, for it is not to be compiled for a model that belongs to none.
            pub const $children: Option<Children> =
                Some(Children(|conn, column, on_delete, parents| {
                    Box::pin(cascade::children::<M, Only<sqlx::$DB>>(
                        conn, column, on_delete, parents,
                    ))
                }));
        }
    };
}

stored_in!("sqlite", Sqlite, SQLITE, SQLITE_CHILDREN);
stored_in!("postgres", Postgres, POSTGRES, POSTGRES_CHILDREN);

impl Linked {
    /// The model `M`.
    pub const fn new<M: Model>(
        relations: &'static [Relation],
        sqlite: Option<Fits>,
        postgres: Option<Fits>,
    ) -> Self {
        Self { model: Described::of::<M>, relations, sqlite, postgres }
    }

    /// The model, and how its columns are read, where this database can store it.
    pub(crate) fn stored_in(&self, kind: DatabaseKind) -> Option<(Described, Fits)> {
        let fits = match kind {
            DatabaseKind::Sqlite => self.sqlite,
            DatabaseKind::Postgres => self.postgres,
        };
        fits.map(|fits| ((self.model)(), fits))
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
pub(crate) struct Dependent(&'static Relation);

impl Dependent {
    /// Does to the rows that belong to these what is to be done before these are deleted.
    pub(crate) async fn cascade(&self, conn: &mut Conn<'_>, parents: &dyn Instances) -> Result<()> {
        let Relation { column, on_delete, sqlite, postgres, .. } = *self.0;
        let children = match conn.kind() {
            DatabaseKind::Sqlite => sqlite,
            DatabaseKind::Postgres => postgres,
        };
        match children {
            Some(Children(children)) => children(conn, column, on_delete, parents).await,
            // No row of it is in this database.
            None => Ok(()),
        }
    }
}

/// The models whose rows belong to those of this model, in the order of their names.
pub(crate) fn dependents(parent: TypeId) -> &'static [Dependent] {
    static DEPENDENTS: OnceLock<HashMap<TypeId, Vec<Dependent>>> = OnceLock::new();
    let all = DEPENDENTS.get_or_init(|| {
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        for child in models() {
            for relation in child.relations {
                all.entry((relation.parent)()).or_default().push(Dependent(relation));
            }
        }
        all
    });
    all.get(&parent).map_or(&[], Vec::as_slice)
}

/// Every model that is linked into the program, in the order of their names.
pub(crate) fn models() -> Vec<&'static Linked> {
    let mut seen = std::collections::HashSet::new();
    let mut all: Vec<_> = inventory::iter::<Linked>.into_iter().collect();
    all.retain(|linked| seen.insert((linked.model)().id));
    all.sort_by_key(|linked| (linked.model)().name);
    all
}
