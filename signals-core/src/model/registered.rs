//! How a model is registered at link time: what the registration needs of its type.

use crate::table::field::JsonSlot;
use crate::table::field::Slot;
use std::any::TypeId;
use std::marker::PhantomData;

use crate::model::Model;
use crate::model::rows::TypedRows;
use crate::model::store::{Only, Route, Store};
use crate::signal::relation::{
    Ask, Describe, EmptyRows, ModelInfo, OnDelete, RegisteredModel, Relation,
};

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

/// How to copy a `T`: its own constant is there where it is `Clone`, else that of [`NotCloned`].
pub struct CopyOf<T>(PhantomData<T>);

/// Copies several `T`, where that can be done.
pub type Copier<T> = Option<fn(&[T]) -> Vec<T>>;

/// TypedRows every type, that nobody knows how to copy it.
pub trait NotCloned {
    /// What would be copied.
    type TypedRows;
    /// Nobody knows.
    const COPY: Copier<Self::TypedRows> = None;
}

impl<T> NotCloned for CopyOf<T> {
    type TypedRows = T;
}

impl<T: Clone> CopyOf<T> {
    /// As `Clone` does it.
    pub const COPY: Copier<T> = Some(<[T]>::to_vec);
}

/// TypedRows a model, which of the databases can store it: its own constants are there where one can, else those of
/// [`NotStored`].
pub struct StoredIn<M>(PhantomData<M>);

/// TypedRows every type, that no database can store it.
pub trait NotStored {
    /// It is no model, which is an error of its derive.
    const DESCRIBED: Describe = Describe(|| unreachable!("the build has failed at this model"));
    /// In no SQLite.
    const SQLITE: Option<Ask> = None;
    /// In no Postgres.
    const POSTGRES: Option<Ask> = None;
    /// No rows in SQLite belong to others.
    const SQLITE_CHILDREN: Option<EmptyRows> = None;
    /// No rows in Postgres belong to others.
    const POSTGRES_CHILDREN: Option<EmptyRows> = None;
}

impl<M> NotStored for StoredIn<M> {}

impl<M: Model> StoredIn<M> {
    /// What is known of the model without its type.
    pub const DESCRIBED: Describe = Describe(ModelInfo::of::<M>);
}

macro_rules! stored_in {
    ($feature:literal, $DB:ident, $ask:ident, $children:ident) => {
        #[cfg(feature = $feature)]
        impl<M: Store<sqlx::$DB>> StoredIn<M> {
            /// What is asked of the types of the columns.
            pub const $ask: Option<Ask> = Some(<Only<sqlx::$DB> as Route<M>>::asked);
            /// Rows that belong to others. Apart, for it is not to be compiled for a model that belongs to none.
            pub const $children: Option<EmptyRows> =
                Some(EmptyRows(|field| TypedRows::<M, Only<sqlx::$DB>>::owned(field).boxed()));
        }
    };
}

stored_in!("sqlite", Sqlite, SQLITE, SQLITE_CHILDREN);

stored_in!("postgres", Postgres, POSTGRES, POSTGRES_CHILDREN);

impl RegisteredModel {
    /// The model `M`.
    pub const fn new<M: Model>(
        relations: &'static [Relation],
        sqlite: Option<Ask>,
        postgres: Option<Ask>,
    ) -> Self {
        Self::described(Describe(ModelInfo::of::<M>), relations, sqlite, postgres)
    }
}

impl Relation {
    /// The column at this place is the key of a row of `P`.
    pub const fn new<P: Model>(
        column: usize,
        on_delete: OnDelete,
        sqlite: Option<EmptyRows>,
        postgres: Option<EmptyRows>,
    ) -> Self {
        Self { parent: TypeId::of::<P>, column, on_delete, sqlite, postgres }
    }
}

/// A type that a column can have that is the key of another row: that of the key, or an `Option` of it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the key of the model that it belongs to",
    label = "expected `{Pk}` or `Option<{Pk}>`"
)]
pub trait KeyOf<Pk> {}

impl<Pk> KeyOf<Pk> for Pk {}

impl<Pk> KeyOf<Pk> for Option<Pk> {}

/// A check at compile time that a column can be the key of a row of `P`.
pub const fn is_key_of<P: Model, F: KeyOf<P::Pk>>() {}

/// The type of a column, of type `T`, that is the key of a row of `P`.
pub trait KeyColumn<T, P> {
    /// The key itself if no database can store a `T`, which is an error already.
    type Type;
}

impl<T, P> KeyColumn<T, P> for Slot<true> {
    type Type = T;
}

impl<T, P: Model> KeyColumn<T, P> for Slot<false> {
    type Type = P::Pk;
}

impl<T, P> KeyColumn<T, P> for JsonSlot<true> {
    type Type = T;
}

impl<T, P: Model> KeyColumn<T, P> for JsonSlot<false> {
    type Type = P::Pk;
}
