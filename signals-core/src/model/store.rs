//! How a model is bound to the statements of a database and decoded from its rows.
//!
//! [`Store`] implements this for one database. A [`Route`] selects the database, at compile time or by the connection.

use std::time::SystemTime;

use sqlx::error::BoxDynError;

use crate::database::backend::{
    AnyRow, AnyTake, AnyType, Arguments, Backend, DatabaseKind, Take, on, on_kind,
};
use crate::model::Model;
use crate::model::decode::decoding;
use crate::table::field::{Asked, no_column};

/// Binds a model to the statements of the database `DB`, and decodes it from its rows. `#[derive(Model)]` implements it for
/// every database that can store each field.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored in `{DB}`",
    note = "a function that is generic over models and takes `&Db` or `&mut Conn<'_>` asks for `M: Model + Portable`"
)]
pub trait Store<DB: Backend>: Model {
    /// Passes the value of a column to `take`. `column` is an index into [`Model::COLUMNS`].
    ///
    /// # Errors
    ///
    /// The error of `take`, or an error if the column is a key that the database has not assigned yet.
    fn give(&self, column: usize, take: Take<'_, DB>) -> Result<(), BoxDynError>;

    /// Sets the field of a column that the database or the library computes, from the column `at` of a row.
    ///
    /// # Errors
    ///
    /// An error if the column cannot be decoded.
    fn set(&mut self, column: usize, row: &DB::Row, at: usize) -> Result<(), sqlx::Error>;

    /// Passes the value that an `auto_now` column has at the time `now` to `take`.
    ///
    /// # Errors
    ///
    /// The error of `take`, or an error if the column is not an `auto_now` column.
    fn give_time(column: usize, _now: SystemTime, _take: Take<'_, DB>) -> Result<(), BoxDynError> {
        no_column(column)
    }

    /// Passes a part of a key to `take`. The parts are the key columns, in the order of the fields.
    ///
    /// # Errors
    ///
    /// The error of `take`, or an error if the key has no such part.
    fn key(key: &Self::Pk, part: usize, take: Take<'_, DB>) -> Result<(), BoxDynError>;

    /// Binds the columns of a key by which a row is found.
    ///
    /// # Errors
    ///
    /// An error if a value cannot be encoded.
    fn bind_key(key: &Self::Pk, args: &mut DB::Arguments) -> Result<(), BoxDynError> {
        let mut parts = 0..Self::STATEMENTS.keys;
        parts.try_for_each(|part| Self::key(key, part, &mut |value| value.bind_compared(args)))
    }

    /// Answers a question about the type of a column.
    fn asked(column: usize, asked: Asked<'_>) -> bool;

    /// Decodes all columns of a row.
    ///
    /// # Errors
    ///
    /// An error if a column cannot be decoded.
    fn load(row: &DB::Row, at: impl Places) -> Result<Self, sqlx::Error>;
}

/// Maps the index of a column of the model to its index in a row.
pub trait Places: Fn(usize) -> Result<usize, sqlx::Error> {}

impl<F: Fn(usize) -> Result<usize, sqlx::Error>> Places for F {}

/// Decodes a row whose columns are in any order, by their names.
///
/// # Errors
///
/// An error if a column is missing or cannot be decoded.
pub fn by_name<DB, M>(row: &DB::Row) -> Result<M, sqlx::Error>
where
    DB: Backend,
    M: Store<DB>,
    &'static str: sqlx::ColumnIndex<DB::Row>,
{
    decoding::<M, M>(|reached| {
        M::load(row, |column| {
            reached.set(column);
            sqlx::ColumnIndex::index(&M::COLUMNS[column], row)
        })
    })
}

/// Defines one supertrait per database. If the feature of the database is disabled, the trait requires nothing.
macro_rules! stored_in {
    ($feature:literal, $DB:ident, $name:ident) => {
        #[cfg(feature = $feature)]
        pub trait $name: $crate::model::store::Store<sqlx::$DB> {}
        #[cfg(feature = $feature)]
        impl<M: $crate::model::store::Store<sqlx::$DB>> $name for M {}
        #[cfg(not(feature = $feature))]
        pub trait $name: $crate::model::Model {}
        #[cfg(not(feature = $feature))]
        impl<M: $crate::model::Model> $name for M {}
    };
}

#[allow(missing_docs)]
pub(crate) mod enabled {
    stored_in!("sqlite", Sqlite, InSqlite);
    stored_in!("postgres", Postgres, InPostgres);
}

/// A model that every enabled database can store. [`Db`](crate::Db), [`Conn`](crate::Conn) and
/// [`Transaction`](crate::Transaction) accept only such models, because they can be connections of any of these databases.
///
/// It is implemented automatically. A model with a field that only one database can store, such as a `Vec<String>` in
/// PostgreSQL, is not `Portable`; pass a pool or connection of that database instead.
///
/// A function that is generic over models and takes a `&Db` or a `&mut Conn<'_>` needs it as a bound:
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Portable;
///
/// async fn save_all<M: Model + Portable>(db: &Db, rows: &mut [M]) -> Result<()> {
///     for row in rows {
///         row.save(db).await?;
///     }
///     Ok(())
/// }
/// ```
pub trait Portable: enabled::InSqlite + enabled::InPostgres {}

impl<M: enabled::InSqlite + enabled::InPostgres> Portable for M {}

/// Selects the database of a model: the one that is known at compile time ([`Only`]), or the one of the connection ([`Any`]).
pub trait Route<M: Model>: Send + 'static {
    #[doc(hidden)]
    fn give(model: &M, column: usize, take: AnyTake<'_>) -> Result<(), BoxDynError>;
    #[doc(hidden)]
    fn give_time(column: usize, now: SystemTime, take: AnyTake<'_>) -> Result<(), BoxDynError>;
    #[doc(hidden)]
    fn bind_key(key: &M::Pk, args: &mut Arguments) -> Result<(), BoxDynError>;
    #[doc(hidden)]
    fn give_key(key: &M::Pk, part: usize, take: AnyTake<'_>) -> Result<(), BoxDynError>;
    #[doc(hidden)]
    fn set(model: &mut M, column: usize, row: &AnyRow, at: usize) -> Result<(), sqlx::Error>;
    #[doc(hidden)]
    fn load(row: &AnyRow, from: usize) -> Result<M, sqlx::Error>;
    #[doc(hidden)]
    fn asked(column: usize, asked: Asked<'_>) -> bool;
}

/// The database `DB`.
pub struct Only<DB>(std::marker::PhantomData<fn() -> DB>);

/// The database of the connection, which is known only at run time.
pub struct Any(());

impl<DB: Backend, M: Store<DB>> Route<M> for Only<DB> {
    fn give(model: &M, column: usize, take: AnyTake<'_>) -> Result<(), BoxDynError> {
        model.give(column, DB::take(take))
    }

    fn give_time(column: usize, now: SystemTime, take: AnyTake<'_>) -> Result<(), BoxDynError> {
        <M as Store<DB>>::give_time(column, now, DB::take(take))
    }

    fn bind_key(key: &M::Pk, args: &mut Arguments) -> Result<(), BoxDynError> {
        <M as Store<DB>>::bind_key(key, DB::arguments(args))
    }

    fn give_key(key: &M::Pk, part: usize, take: AnyTake<'_>) -> Result<(), BoxDynError> {
        <M as Store<DB>>::key(key, part, DB::take(take))
    }

    fn set(model: &mut M, column: usize, row: &AnyRow, at: usize) -> Result<(), sqlx::Error> {
        decoding::<M, ()>(|reached| {
            reached.set(column);
            Store::<DB>::set(model, column, DB::row(row), at)
        })
    }

    fn load(row: &AnyRow, from: usize) -> Result<M, sqlx::Error> {
        decoding::<M, M>(|reached| {
            <M as Store<DB>>::load(DB::row(row), |column| {
                reached.set(column);
                Ok(from + column)
            })
        })
    }

    fn asked(column: usize, asked: Asked<'_>) -> bool {
        <M as Store<DB>>::asked(column, asked)
    }
}

impl<M: Portable> Route<M> for Any {
    fn give(model: &M, column: usize, take: AnyTake<'_>) -> Result<(), BoxDynError> {
        on!(AnyTake, take, DB, _ => <Only<DB> as Route<M>>::give(model, column, take))
    }

    fn give_time(column: usize, now: SystemTime, take: AnyTake<'_>) -> Result<(), BoxDynError> {
        on!(AnyTake, take, DB, _ => <Only<DB> as Route<M>>::give_time(column, now, take))
    }

    fn bind_key(key: &M::Pk, args: &mut Arguments) -> Result<(), BoxDynError> {
        on!(Arguments, args, DB, _ => <Only<DB> as Route<M>>::bind_key(key, args))
    }

    fn give_key(key: &M::Pk, part: usize, take: AnyTake<'_>) -> Result<(), BoxDynError> {
        on!(AnyTake, take, DB, _ => <Only<DB> as Route<M>>::give_key(key, part, take))
    }

    fn set(model: &mut M, column: usize, row: &AnyRow, at: usize) -> Result<(), sqlx::Error> {
        on!(AnyRow, row, DB, _ => <Only<DB> as Route<M>>::set(model, column, row, at))
    }

    fn load(row: &AnyRow, from: usize) -> Result<M, sqlx::Error> {
        on!(AnyRow, row, DB, _ => <Only<DB> as Route<M>>::load(row, from))
    }

    fn asked(column: usize, asked: Asked<'_>) -> bool {
        match asked {
            Asked::Reads(ty)
            | Asked::ReadsAll(ty)
            | Asked::Takes(ty)
            | Asked::Keeps(ty)
            | Asked::TypeName(ty, _) => {
                on!(AnyType, ty, DB, _ => <Only<DB> as Route<M>>::asked(column, asked))
            }
            Asked::Name(kind, _) => {
                on_kind!(kind, DB => <Only<DB> as Route<M>>::asked(column, asked))
            }
            #[cfg(feature = "sqlite")]
            Asked::ReadsRowid => <Only<sqlx::Sqlite> as Route<M>>::asked(column, asked),
            #[cfg(not(feature = "sqlite"))]
            Asked::ReadsRowid => false,
            Asked::Converts(conversion) => {
                on!(AnyRow, conversion.row, DB, _ => <Only<DB> as Route<M>>::asked(column, asked))
            }
            Asked::ReadsNull(row) | Asked::ReadsSame(row, ..) => {
                on!(AnyRow, row, DB, _ => <Only<DB> as Route<M>>::asked(column, asked))
            }
        }
    }
}
