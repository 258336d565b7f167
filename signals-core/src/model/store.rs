use crate::model::Model;
use std::time::SystemTime;

use sqlx::error::BoxDynError;

use crate::database::backend::{AnyRow, AnyTake, AnyType, Arguments, Backend, DatabaseKind, Take};
use crate::model::decode::decoding;
use crate::table::field::{Asked, no_column};

/// How a model goes into the statements of one database, and comes out of its rows. `#[derive(Model)]` implements it
/// for every database that can store each of the fields.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be stored in `{DB}`",
    note = "a function that is generic over models and takes `&Db` or `&mut Conn<'_>` asks for `M: Model + Portable`"
)]
pub trait Store<DB: Backend>: Model {
    /// Gives the value of a column, by its place among the columns.
    ///
    /// # Errors
    ///
    /// What `take` returns; a key that the row does not have yet.
    fn give(&self, column: usize, take: Take<'_, DB>) -> Result<(), BoxDynError>;

    /// Takes what the database made of a column that it or the library sets, from a place in a row.
    ///
    /// # Errors
    ///
    /// Where the column does not decode.
    fn set(&mut self, column: usize, row: &DB::Row, at: usize) -> Result<(), sqlx::Error>;

    /// Gives the value that a column with `auto_now` has at a time.
    ///
    /// # Errors
    ///
    /// What `take` returns; if the column is not such a one.
    fn give_time(column: usize, _now: SystemTime, _take: Take<'_, DB>) -> Result<(), BoxDynError> {
        no_column(column)
    }

    /// Adds the columns of a key.
    ///
    /// # Errors
    ///
    /// Where a value cannot be encoded.
    fn bind_key(key: &Self::Pk, args: &mut DB::Arguments) -> Result<(), BoxDynError>;

    /// What is asked of the type of a column.
    fn asked(column: usize, asked: Asked<'_>) -> bool;

    /// Reads all columns.
    ///
    /// # Errors
    ///
    /// Where a column does not decode.
    fn load(row: &DB::Row, at: impl Places) -> Result<Self, sqlx::Error>;
}

/// Where the columns of a model stand in a row.
pub trait Places: Fn(usize) -> Result<usize, sqlx::Error> {}

impl<F: Fn(usize) -> Result<usize, sqlx::Error>> Places for F {}

/// Reads a row whose columns stand in any order, by their names.
///
/// # Errors
///
/// Where one is missing or does not decode.
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

/// One super-trait a database, which asks for nothing where the database is not a feature of the build.
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

/// A model that every database of this build can store, and so a [`Db`](crate::Db) and a [`Conn`](crate::Conn).
///
/// A model with a field that only one database has, say `Vec<String>` for Postgres, is saved through that database's
/// own pools and connections.
pub trait Portable: enabled::InSqlite + enabled::InPostgres {}

impl<M: enabled::InSqlite + enabled::InPostgres> Portable for M {}

/// How a model reaches its database: through the one that is known at compile time ([`Only`]), or through whichever
/// a connection turns out to be ([`Any`]).
pub trait Route<M: Model>: Send + 'static {
    #[doc(hidden)]
    fn give(model: &M, column: usize, take: AnyTake<'_>) -> Result<(), BoxDynError>;
    #[doc(hidden)]
    fn give_time(column: usize, now: SystemTime, take: AnyTake<'_>) -> Result<(), BoxDynError>;
    #[doc(hidden)]
    fn bind_key(key: &M::Pk, args: &mut Arguments) -> Result<(), BoxDynError>;
    #[doc(hidden)]
    fn set(model: &mut M, column: usize, row: &AnyRow, at: usize) -> Result<(), sqlx::Error>;
    #[doc(hidden)]
    fn load(row: &AnyRow, from: usize) -> Result<M, sqlx::Error>;
    #[doc(hidden)]
    fn asked(column: usize, asked: Asked<'_>) -> bool;
}

/// The database that the type names.
pub struct Only<DB>(std::marker::PhantomData<fn() -> DB>);

/// The database of the connection.
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

/// The same expression for the database that the value is of.
macro_rules! each {
    ($enum:ident, $value:expr, $DB:ident => $body:expr) => {
        match $value {
            #[cfg(feature = "sqlite")]
            $enum::Sqlite(_) => {
                type $DB = Only<sqlx::Sqlite>;
                $body
            }
            #[cfg(feature = "postgres")]
            $enum::Postgres(_) => {
                type $DB = Only<sqlx::Postgres>;
                $body
            }
        }
    };
}

impl<M: Portable> Route<M> for Any {
    fn give(model: &M, column: usize, take: AnyTake<'_>) -> Result<(), BoxDynError> {
        each!(AnyTake, take, DB => <DB as Route<M>>::give(model, column, take))
    }

    fn give_time(column: usize, now: SystemTime, take: AnyTake<'_>) -> Result<(), BoxDynError> {
        each!(AnyTake, take, DB => <DB as Route<M>>::give_time(column, now, take))
    }

    fn bind_key(key: &M::Pk, args: &mut Arguments) -> Result<(), BoxDynError> {
        each!(Arguments, args, DB => <DB as Route<M>>::bind_key(key, args))
    }

    fn set(model: &mut M, column: usize, row: &AnyRow, at: usize) -> Result<(), sqlx::Error> {
        each!(AnyRow, row, DB => <DB as Route<M>>::set(model, column, row, at))
    }

    fn load(row: &AnyRow, from: usize) -> Result<M, sqlx::Error> {
        each!(AnyRow, row, DB => <DB as Route<M>>::load(row, from))
    }

    fn asked(column: usize, asked: Asked<'_>) -> bool {
        match asked {
            Asked::Reads(ty)
            | Asked::ReadsAll(ty)
            | Asked::Takes(ty)
            | Asked::Keeps(ty)
            | Asked::TypeName(ty, _) => {
                each!(AnyType, ty, DB => <DB as Route<M>>::asked(column, asked))
            }
            Asked::Name(kind, _) => match kind {
                #[cfg(feature = "sqlite")]
                DatabaseKind::Sqlite => <Only<sqlx::Sqlite> as Route<M>>::asked(column, asked),
                #[cfg(feature = "postgres")]
                DatabaseKind::Postgres => <Only<sqlx::Postgres> as Route<M>>::asked(column, asked),
                #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
                other => unreachable!("{other:?} is not a feature of this build"),
            },
            #[cfg(feature = "sqlite")]
            Asked::ReadsRowid => <Only<sqlx::Sqlite> as Route<M>>::asked(column, asked),
            #[cfg(not(feature = "sqlite"))]
            Asked::ReadsRowid => false,
            Asked::Converts(conversion) => {
                each!(AnyRow, conversion.row, DB => <DB as Route<M>>::asked(column, asked))
            }
            Asked::ReadsNull(row) | Asked::ReadsSame(row, ..) => {
                each!(AnyRow, row, DB => <DB as Route<M>>::asked(column, asked))
            }
        }
    }
}
