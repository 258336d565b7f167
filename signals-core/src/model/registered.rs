//! How a model is registered at link time: the part of a registration that needs the type of the model.

use std::any::TypeId;
use std::marker::PhantomData;

use crate::model::Model;
use crate::model::rows::TypedRows;
use crate::model::store::{Only, Route, Store};
use crate::signal::relation::{
    Ask, Describe, EmptyRows, ModelInfo, OnDelete, RegisteredModel, Relation,
};
use crate::table::field::Slot;

impl ModelInfo {
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

/// Detects at compile time whether a `T` is `Clone`: the inherent constant `COPY` exists only for `Clone` types; for other
/// types, the constant of [`NotCloned`] is found instead.
pub struct CopyOf<T>(PhantomData<T>);

/// Copies several `T`, if `T` is `Clone`.
pub type Copier<T> = Option<fn(&[T]) -> Vec<T>>;

/// The default of [`CopyOf`], implemented for every type.
pub trait NotCloned {
    /// The type of the rows.
    type Row;
    /// The type is not `Clone`.
    const COPY: Copier<Self::Row> = None;
}

impl<T> NotCloned for CopyOf<T> {
    type Row = T;
}

impl<T: Clone> CopyOf<T> {
    /// Copies with `Clone`.
    pub const COPY: Copier<T> = Some(<[T]>::to_vec);
}

/// Detects at compile time which databases can store a model: the inherent constants exist only for a database that can; for
/// others, the constants of [`NotStored`] are found instead.
pub struct StoredIn<M>(PhantomData<M>);

/// The defaults of [`StoredIn`], implemented for every type.
pub trait NotStored {
    /// The type is not a model. The derive has reported the error.
    const DESCRIBED: Describe = Describe(|| unreachable!("the build has failed at this model"));
    /// SQLite cannot store the model.
    const SQLITE: Option<Ask> = None;
    /// PostgreSQL cannot store the model.
    const POSTGRES: Option<Ask> = None;
    /// SQLite cannot store the model.
    const SQLITE_CHILDREN: Option<EmptyRows> = None;
    /// PostgreSQL cannot store the model.
    const POSTGRES_CHILDREN: Option<EmptyRows> = None;
}

impl<M> NotStored for StoredIn<M> {}

impl<M: Model> StoredIn<M> {
    /// The description of the model, without its type.
    pub const DESCRIBED: Describe = Describe(ModelInfo::of::<M>);
}

macro_rules! stored_in {
    ($feature:literal, $DB:ident, $ask:ident, $children:ident) => {
        #[cfg(feature = $feature)]
        impl<M: Store<sqlx::$DB>> StoredIn<M> {
            /// Answers questions about the types of the columns.
            pub const $ask: Option<Ask> = Some(<Only<sqlx::$DB> as Route<M>>::asked);
            /// Creates an empty collection for rows of this model. A constant of its own, so that it is compiled only for
            /// models that belong to another.
            pub const $children: Option<EmptyRows> =
                Some(EmptyRows(|field| TypedRows::<M, Only<sqlx::$DB>>::owned(field).boxed()));
        }
    };
}

stored_in!("sqlite", Sqlite, SQLITE, SQLITE_CHILDREN);

stored_in!("postgres", Postgres, POSTGRES, POSTGRES_CHILDREN);

impl RegisteredModel {
    /// The registration of the model `M`.
    pub const fn new<M: Model>(
        relations: &'static [Relation],
        sqlite: Option<Ask>,
        postgres: Option<Ask>,
    ) -> Self {
        Self::described(Describe(ModelInfo::of::<M>), relations, sqlite, postgres)
    }
}

impl Relation {
    /// The relation of a model to `P`: the column with this index contains the key of a row of `P`.
    pub const fn new<P: Model>(
        column: usize,
        on_delete: OnDelete,
        sqlite: Option<EmptyRows>,
        postgres: Option<EmptyRows>,
    ) -> Self {
        Self { parent: TypeId::of::<P>, column, on_delete, sqlite, postgres }
    }
}

/// Implemented for the types of a column that can contain the key of another row: the type of that key, or an `Option` of it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the key of the model that it belongs to",
    label = "expected `{Pk}` or `Option<{Pk}>`"
)]
pub trait KeyOf<Pk> {
    /// A parent that belongs to a column of this type: `T`, or `Option<T>` if the column can be NULL.
    type Parent<T>;

    /// The key of the parent, if there is one.
    fn key(&self) -> Option<&Pk>;

    /// The parent of a column that has a key.
    fn parent<T>(parent: T) -> Self::Parent<T>;

    /// The parent of a column that has no key.
    fn no_parent<T>() -> Self::Parent<T>;
}

impl<Pk> KeyOf<Pk> for Pk {
    type Parent<T> = T;

    fn key(&self) -> Option<&Pk> {
        Some(self)
    }

    fn parent<T>(parent: T) -> T {
        parent
    }

    fn no_parent<T>() -> T {
        unreachable!("the column always has a key")
    }
}

impl<Pk> KeyOf<Pk> for Option<Pk> {
    type Parent<T> = Option<T>;

    fn key(&self) -> Option<&Pk> {
        self.as_ref()
    }

    fn parent<T>(parent: T) -> Option<T> {
        Some(parent)
    }

    fn no_parent<T>() -> Option<T> {
        None
    }
}

/// Checks at compile time that a column of type `F` can contain the key of a row of `P`.
pub const fn is_key_of<P: Model, F: KeyOf<P::Pk>>() {}

/// The type of a column, declared as `T`, that contains the key of a row of `P`.
pub trait KeyColumn<T, P> {
    /// The type of the key itself if no database can store a `T`, because that error is already reported.
    type Type;
}

impl<T, P, const JSON: bool> KeyColumn<T, P> for Slot<true, JSON> {
    type Type = T;
}

impl<T, P: Model, const JSON: bool> KeyColumn<T, P> for Slot<false, JSON> {
    type Type = P::Pk;
}
