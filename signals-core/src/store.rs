use std::time::SystemTime;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Decode, Encode, Type};

use crate::backend::{AnyRow, AnyTake, AnyType, Arguments, Backend, DatabaseKind};
use crate::decode::decoding;
use crate::field::{Asked, Stores};
use crate::model::Model;

/// A type that a column of this database can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a column in `{DB}`",
    label = "not a column type of `{DB}`",
    note = "a field needs sqlx's `Type`, `Encode` and `Decode` for the database; `#[derive(sqlx::Type)]` makes them \
            for enums and newtypes, `#[model(json)]` stores the field as JSON, `#[model(skip)]` leaves it out"
)]
pub trait Field<DB: Backend>:
    Type<DB> + for<'q> Encode<'q, DB> + for<'r> Decode<'r, DB> + Send + Sync + 'static
{
}

#[diagnostic::do_not_recommend]
impl<DB: Backend, T> Field<DB> for T where
    T: Type<DB> + for<'q> Encode<'q, DB> + for<'r> Decode<'r, DB> + Send + Sync + 'static
{
}

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

/// Receives the value of a column.
pub type Take<'t, DB> = &'t mut dyn FnMut(&dyn Bindable<DB>) -> Result<(), BoxDynError>;

/// A value that goes into a statement of this database, whatever its type.
pub trait Bindable<DB: Backend> {
    /// Adds it to the arguments of a statement.
    ///
    /// # Errors
    ///
    /// Where it cannot be encoded.
    fn bind(&self, args: &mut DB::Arguments) -> Result<(), BoxDynError>;

    /// Adds it as a value that is compared with its column.
    ///
    /// # Errors
    ///
    /// Where it cannot be encoded.
    fn bind_compared(&self, args: &mut DB::Arguments) -> Result<(), BoxDynError>;

    /// The type as which the database is given it.
    fn type_info(&self) -> DB::TypeInfo;

    /// Writes what the database is given.
    ///
    /// # Errors
    ///
    /// Where it cannot be encoded.
    fn encode(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError>;

    /// Begins an array of values of this type.
    ///
    /// # Errors
    ///
    /// Where the database has no arrays.
    fn start_array(&self, buffer: &mut DB::ArgumentBuffer) -> Result<(), BoxDynError>;
}

impl<DB: Backend, T> Bindable<DB> for T
where
    T: Type<DB> + for<'q> Encode<'q, DB>,
{
    fn bind(&self, args: &mut DB::Arguments) -> Result<(), BoxDynError> {
        sqlx::Arguments::add(args, self)
    }

    fn bind_compared(&self, args: &mut DB::Arguments) -> Result<(), BoxDynError> {
        DB::add_compared(args, self)
    }

    fn type_info(&self) -> DB::TypeInfo {
        self.produces().unwrap_or_else(T::type_info)
    }

    fn encode(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError> {
        self.encode_by_ref(buffer)
    }

    fn start_array(&self, buffer: &mut DB::ArgumentBuffer) -> Result<(), BoxDynError> {
        DB::start_array::<T>(buffer)
    }
}

/// Gives a key that may not be there yet.
///
/// # Errors
///
/// What `take` returns; where there is none.
pub fn give_key<DB: Backend, S: Stores<T, DB>, T>(
    key: &Option<T>,
    take: Take<'_, DB>,
) -> Result<(), BoxDynError> {
    match key {
        Some(key) => S::give(key, take),
        None => Err("the row has no key yet".into()),
    }
}

/// Adds a part of a key by which a row is found to the arguments of a statement.
///
/// # Errors
///
/// If it cannot be encoded.
pub fn add_key<DB: Backend, S: Stores<T, DB>, T>(
    key: &T,
    args: &mut DB::Arguments,
) -> Result<(), BoxDynError> {
    S::give(key, &mut |key| key.bind_compared(args))
}

/// A place that no column has.
///
/// # Errors
///
/// Always.
pub fn no_column(column: usize) -> Result<(), BoxDynError> {
    Err(format!("there is no column {column}").into())
}

macro_rules! stored_in {
    ($feature:literal, $db:ident, $db_row:ty, $name:ident, $value:ident, $row:ident, $binds:ident) => {
        #[cfg(feature = $feature)]
        pub trait $name: Store<sqlx::$db> {}
        #[cfg(feature = $feature)]
        impl<M: Store<sqlx::$db>> $name for M {}
        #[cfg(not(feature = $feature))]
        pub trait $name: Model {}
        #[cfg(not(feature = $feature))]
        impl<M: Model> $name for M {}

        #[cfg(feature = $feature)]
        pub trait $value<'q>: Encode<'q, sqlx::$db> + Type<sqlx::$db> {}
        #[cfg(feature = $feature)]
        impl<'q, T: Encode<'q, sqlx::$db> + Type<sqlx::$db>> $value<'q> for T {}
        #[cfg(not(feature = $feature))]
        pub trait $value<'q> {}
        #[cfg(not(feature = $feature))]
        impl<'q, T> $value<'q> for T {}

        #[cfg(feature = $feature)]
        pub trait $row: for<'r> sqlx::FromRow<'r, $db_row> {}
        #[cfg(feature = $feature)]
        impl<T: for<'r> sqlx::FromRow<'r, $db_row>> $row for T {}
        #[cfg(not(feature = $feature))]
        pub trait $row {}
        #[cfg(not(feature = $feature))]
        impl<T> $row for T {}

        #[cfg(feature = $feature)]
        pub trait $binds: BindsIn<sqlx::$db> {}
        #[cfg(feature = $feature)]
        impl<B: BindsIn<sqlx::$db>> $binds for B {}
        #[cfg(not(feature = $feature))]
        pub trait $binds: Send {}
        #[cfg(not(feature = $feature))]
        impl<B: Send> $binds for B {}
    };
}

/// One super-trait a database, which asks for nothing where the database is not a feature of the build.
#[allow(missing_docs)]
pub(crate) mod enabled {
    use super::*;
    use crate::query::BindsIn;

    stored_in!(
        "sqlite",
        Sqlite,
        sqlx::sqlite::SqliteRow,
        InSqlite,
        SqliteValue,
        InSqliteRow,
        BindsInSqlite
    );
    stored_in!(
        "postgres",
        Postgres,
        sqlx::postgres::PgRow,
        InPostgres,
        PostgresValue,
        InPostgresRow,
        BindsInPostgres
    );
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
