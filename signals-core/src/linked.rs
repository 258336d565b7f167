//! Every model of the program, without its type: for what the library does to rows of models that the caller has not named.

use std::any::TypeId;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::OnceLock;

use futures_util::future::BoxFuture;

use crate::backend::DatabaseKind;
use crate::cascade::{self, OnDelete};
use crate::check;
use crate::conn::Conn;
use crate::error::Result;
use crate::instances::Instances;
use crate::model::Model;
use crate::store::Route;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
use crate::store::{Only, Store};

/// A model, as it is collected at link time.
pub struct Linked {
    name: &'static str,
    model: fn() -> TypeId,
    relations: &'static [Relation],
    sqlite: Option<Functions>,
    postgres: Option<Functions>,
}

inventory::collect!(Linked);

/// A column of a model that is the key of a row of another.
pub struct Relation {
    parent: fn() -> TypeId,
    column: usize,
    on_delete: OnDelete,
}

/// What can be done with a model in a database that can store it.
#[derive(Clone, Copy)]
pub struct Functions {
    pub(crate) check: for<'c> fn(&'c mut Conn<'_>) -> BoxFuture<'c, Result<Vec<String>>>,
    /// What becomes of the rows that belong to some that are about to be deleted.
    cascade: for<'c> fn(
        &'c mut Conn<'_>,
        usize,
        OnDelete,
        &'c dyn Instances,
    ) -> BoxFuture<'c, Result<()>>,
}

impl Functions {
    const fn of<M: Model, R: Route<M>>() -> Self {
        Self {
            check: |conn| Box::pin(check::table::<M, R>(conn)),
            cascade: |conn, column, on_delete, parents| {
                Box::pin(cascade::children::<M, R>(conn, column, on_delete, parents))
            },
        }
    }
}

/// How to copy a `T`: its own constant is there where it is `Clone`, else that of [`NotCloned`].
pub struct CopyOf<T>(PhantomData<T>);

/// Copies a `T`, where that can be done.
type Copy<T> = Option<fn(&T) -> T>;

/// Of every type, that nobody knows how to copy it.
pub trait NotCloned {
    /// What would be copied.
    type Of;
    /// Nobody knows.
    const COPY: Copy<Self::Of> = None;
}

impl<T> NotCloned for CopyOf<T> {
    type Of = T;
}

impl<T: Clone> CopyOf<T> {
    /// As `Clone` does it.
    pub const COPY: Copy<T> = Some(T::clone);
}

/// Of a model, which of the databases can store it: its own constants are there where one can, else those of
/// [`NotStored`].
pub struct StoredIn<M>(PhantomData<M>);

/// Of every type, that no database can store it.
pub trait NotStored {
    /// In no SQLite.
    const SQLITE: Option<Functions> = None;
    /// In no Postgres.
    const POSTGRES: Option<Functions> = None;
}

impl<M> NotStored for StoredIn<M> {}

#[cfg(feature = "sqlite")]
impl<M: Store<sqlx::Sqlite>> StoredIn<M> {
    /// In SQLite.
    pub const SQLITE: Option<Functions> = Some(Functions::of::<M, Only<sqlx::Sqlite>>());
}

#[cfg(feature = "postgres")]
impl<M: Store<sqlx::Postgres>> StoredIn<M> {
    /// In Postgres.
    pub const POSTGRES: Option<Functions> = Some(Functions::of::<M, Only<sqlx::Postgres>>());
}

impl Linked {
    /// The model `M`.
    pub const fn new<M: Model>(
        relations: &'static [Relation],
        sqlite: Option<Functions>,
        postgres: Option<Functions>,
    ) -> Self {
        Self { name: M::NAME, model: TypeId::of::<M>, relations, sqlite, postgres }
    }

    pub(crate) fn functions(&self, kind: DatabaseKind) -> Option<Functions> {
        match kind {
            DatabaseKind::Sqlite => self.sqlite,
            DatabaseKind::Postgres => self.postgres,
        }
    }
}

impl Relation {
    /// The column at this place is the key of a row of `P`.
    pub const fn new<P: Model>(column: usize, on_delete: OnDelete) -> Self {
        Self { parent: TypeId::of::<P>, column, on_delete }
    }
}

/// A model whose rows belong to those of another.
#[derive(Clone, Copy)]
pub(crate) struct Dependent {
    pub(crate) child: &'static Linked,
    relation: &'static Relation,
}

impl Dependent {
    /// Does to the rows that belong to these what is to be done before these are deleted.
    pub(crate) async fn cascade(&self, conn: &mut Conn<'_>, parents: &dyn Instances) -> Result<()> {
        let Relation { column, on_delete, .. } = *self.relation;
        match self.child.functions(conn.kind()) {
            Some(functions) => (functions.cascade)(conn, column, on_delete, parents).await,
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
                all.entry((relation.parent)()).or_default().push(Dependent { child, relation });
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
    all.retain(|linked| seen.insert((linked.model)()));
    all.sort_by_key(|linked| linked.name);
    all
}
