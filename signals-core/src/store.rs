use sqlx::error::BoxDynError;
use sqlx::{Decode, Encode, SqlStr, Type};

use crate::backend::{AnyRow, Arguments, Backend, Statement};
use crate::conn::Conn;
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
    /// Adds the columns that are not part of the key, in their order.
    ///
    /// # Errors
    ///
    /// Where a value cannot be encoded.
    fn bind(&self, args: &mut DB::Arguments) -> Result<(), BoxDynError>;

    /// Adds the columns of a key.
    ///
    /// # Errors
    ///
    /// Where a value cannot be encoded.
    fn bind_key(key: &Self::Pk, args: &mut DB::Arguments) -> Result<(), BoxDynError>;

    /// Reads a row of all columns, in their order.
    ///
    /// # Errors
    ///
    /// Where a column does not decode.
    fn load(row: &DB::Row) -> Result<Self, sqlx::Error>;

    /// Reads a row of the key's columns.
    ///
    /// # Errors
    ///
    /// Where a column does not decode.
    fn load_key(row: &DB::Row) -> Result<Self::Pk, sqlx::Error>;
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
    fn bind(model: &M, args: &mut Arguments) -> Result<(), BoxDynError>;
    #[doc(hidden)]
    fn bind_key(key: &M::Pk, args: &mut Arguments) -> Result<(), BoxDynError>;
    #[doc(hidden)]
    fn load(row: &AnyRow) -> Result<M, sqlx::Error>;
    #[doc(hidden)]
    fn load_key(row: &AnyRow) -> Result<M::Pk, sqlx::Error>;
}

/// The database that the type names.
pub struct Only<DB>(std::marker::PhantomData<fn() -> DB>);

/// The database of the connection.
pub struct Any(());

impl<DB: Backend, M: Store<DB>> Route<M> for Only<DB> {
    fn bind(model: &M, args: &mut Arguments) -> Result<(), BoxDynError> {
        model.bind(DB::arguments(args))
    }

    fn bind_key(key: &M::Pk, args: &mut Arguments) -> Result<(), BoxDynError> {
        <M as Store<DB>>::bind_key(key, DB::arguments(args))
    }

    fn load(row: &AnyRow) -> Result<M, sqlx::Error> {
        <M as Store<DB>>::load(DB::row(row))
    }

    fn load_key(row: &AnyRow) -> Result<M::Pk, sqlx::Error> {
        <M as Store<DB>>::load_key(DB::row(row))
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
    fn bind(model: &M, args: &mut Arguments) -> Result<(), BoxDynError> {
        each!(Arguments, args, DB => <DB as Route<M>>::bind(model, args))
    }

    fn bind_key(key: &M::Pk, args: &mut Arguments) -> Result<(), BoxDynError> {
        each!(Arguments, args, DB => <DB as Route<M>>::bind_key(key, args))
    }

    fn load(row: &AnyRow) -> Result<M, sqlx::Error> {
        each!(AnyRow, row, DB => <DB as Route<M>>::load(row))
    }

    fn load_key(row: &AnyRow) -> Result<M::Pk, sqlx::Error> {
        each!(AnyRow, row, DB => <DB as Route<M>>::load_key(row))
    }
}

/// The statements of a model, written by `#[derive(Model)]`. The columns that are not part of the key are `$1` and
/// up, the key's come after them; where there is only a key, it starts at `$1`.
#[derive(Debug)]
pub struct Statements {
    /// `INSERT` without the part of the key that the database gives, `RETURNING` the key.
    pub insert: &'static str,
    /// `INSERT` of all columns.
    pub insert_with_key: &'static str,
    /// `INSERT` of all columns, or nothing where the key is taken.
    pub insert_or_nothing: &'static str,
    /// `UPDATE` by key.
    pub update: &'static str,
    /// Postgres: `UPDATE`, or `INSERT` where there was nothing to update; one row that says which.
    pub save: &'static str,
    /// `DELETE` by key.
    pub delete: &'static str,
    /// `SELECT` of all columns without a condition.
    pub select: &'static str,
    /// `SELECT` of all columns by key.
    pub find: &'static str,
    /// `SELECT count(*)` up to the condition, in a parenthesis that is open.
    pub count: &'static str,
}

/// Binds a model's values for whichever database the arguments are for, without its type.
pub(crate) type Bind<'b> = &'b (dyn Fn(&mut Arguments) -> Result<(), BoxDynError> + Sync);

/// A statement of a model, with the arguments that `bind` adds.
pub(crate) fn statement(
    conn: &Conn<'_>,
    sql: &'static str,
    bind: Bind<'_>,
) -> Result<Statement, sqlx::Error> {
    let mut args = Arguments::new(conn.kind());
    bind(&mut args).map_err(sqlx::Error::Encode)?;
    Ok(Statement { sql: SqlStr::from_static(sql), args })
}

/// A value that goes into a statement of this database, for the fields that are stored as something else.
pub trait Encodes<'q, DB: Backend>: Encode<'q, DB> + Type<DB> {}

impl<'q, DB: Backend, T: Encode<'q, DB> + Type<DB>> Encodes<'q, DB> for T {}
