//! The values that are bound to a query.

use std::any::type_name;
use std::marker::PhantomData;

use sqlx::error::BoxDynError;
use sqlx::{Encode, SqlStr, Type};

use crate::database::backend::{AnyType, Arguments, Backend, DatabaseKind, Statement};
use crate::database::sql_scan;
use crate::model::Model;
use crate::model::store::{Any, Only, Portable, Route, Store};
use crate::table::field::{Notation, json_column};

/// What was bound before, and one more value.
pub struct And<'q, B, T> {
    pub(crate) before: B,
    pub(crate) value: T,
    pub(crate) lifetime: PhantomData<fn() -> &'q ()>,
}

/// Values that can be bound on the way that a model takes to its database.
pub trait Binds<M, R>: Send {
    #[doc(hidden)]
    fn bind(self, args: &mut Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError>;
}

/// Values that can be bound in one database.
pub trait BindsIn<DB: Backend>: Send {
    #[doc(hidden)]
    fn bind(self, args: &mut DB::Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError>;
}

impl<DB: Backend> BindsIn<DB> for () {
    fn bind(self, _: &mut DB::Arguments, _: Inspect<'_, '_>) -> Result<(), BoxDynError> {
        Ok(())
    }
}

impl<'q, DB: Backend, B, T> BindsIn<DB> for And<'q, B, T>
where
    B: BindsIn<DB>,
    T: Encode<'q, DB> + Type<DB> + Send,
{
    fn bind(
        self,
        args: &mut DB::Arguments,
        mut inspect: Inspect<'_, '_>,
    ) -> Result<(), BoxDynError> {
        self.before.bind(args, inspect.as_deref_mut())?;
        if let Some(inspect) = inspect {
            let ty = self.value.produces().unwrap_or_else(T::type_info);
            let name = type_name::<T>();
            inspect(Offered { ty: DB::any_type(ty), name, null: DB::is_null(&self.value) })?;
        }
        sqlx::Arguments::add(args, self.value)
    }
}

impl<DB: Backend, M: Store<DB>, B: BindsIn<DB>> Binds<M, Only<DB>> for B {
    fn bind(self, args: &mut Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError> {
        BindsIn::<DB>::bind(self, DB::arguments(args), inspect)
    }
}

/// One super-trait a database, which asks for nothing where the database is not a feature of the build.
macro_rules! bound_in {
    ($feature:literal, $DB:ident, $name:ident) => {
        #[cfg(feature = $feature)]
        pub trait $name: $crate::model::binds::BindsIn<sqlx::$DB> {}
        #[cfg(feature = $feature)]
        impl<B: $crate::model::binds::BindsIn<sqlx::$DB>> $name for B {}
        #[cfg(not(feature = $feature))]
        pub trait $name: Send {}
        #[cfg(not(feature = $feature))]
        impl<B: Send> $name for B {}
    };
}

#[allow(missing_docs)]
pub(crate) mod enabled {
    bound_in!("sqlite", Sqlite, BindsInSqlite);
    bound_in!("postgres", Postgres, BindsInPostgres);
}

impl<M: Portable, B: enabled::BindsInSqlite + enabled::BindsInPostgres> Binds<M, Any> for B {
    fn bind(self, args: &mut Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError> {
        match args {
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(args) => BindsIn::<sqlx::Sqlite>::bind(self, args, inspect),
            #[cfg(feature = "postgres")]
            Arguments::Postgres(args) => BindsIn::<sqlx::Postgres>::bind(self, args, inspect),
        }
    }
}

/// Sees each value before it is bound, in their order.
pub(crate) type Inspect<'i, 'f> =
    Option<&'i mut (dyn FnMut(Offered) -> Result<(), BoxDynError> + 'f)>;

/// What there is to know of a value before it is bound.
pub struct Offered {
    pub(crate) ty: AnyType,
    /// The name of its type in the program.
    name: &'static str,
    null: bool,
}

impl Offered {
    /// Whether it is `None`. A type of the program's own may be NULL where the field's is no `Option`, for it may be the
    /// field's type.
    pub(crate) fn is_none(&self) -> bool {
        let name = self.name.trim_start_matches('&');
        self.null && name.starts_with("core::option::Option<")
    }

    /// Whether it is stored as a field of the type of this name is: it is NULL, or of the same type, or both are strings.
    pub(crate) fn is_stored_as(&self, field: &str) -> bool {
        let are_strings = || [Some(Notation::String); 2] == [self.notation(), Notation::of(field)];
        self.null || bare(self.name) == bare(field) || are_strings()
    }

    /// What the text of it means.
    pub(crate) fn notation(&self) -> Option<Notation> {
        Notation::of(self.name)
    }
}

/// What was bound, after `inspect` has seen each value.
pub(crate) fn arguments<M: Model, R: Route<M>, B: Binds<M, R>>(
    kind: DatabaseKind,
    binds: B,
    inspect: Inspect<'_, '_>,
) -> Result<Arguments, BoxDynError> {
    let mut args = Arguments::new(kind);
    binds.bind(&mut args, inspect)?;
    Ok(args)
}

/// A statement with what was bound.
pub(crate) fn statement<M: Model, R: Route<M>, B: Binds<M, R>>(
    kind: DatabaseKind,
    sql: SqlStr,
    binds: B,
) -> Result<Statement, sqlx::Error> {
    refuse_control(kind, sql.as_str())?;
    let args = arguments::<M, R, B>(kind, binds, None).map_err(sqlx::Error::Encode)?;
    Ok(Statement { sql, args, persistent: true })
}

/// Refuses a condition that begins or ends a transaction: SQLite runs every statement of a text.
pub(crate) fn refuse_control(kind: DatabaseKind, sql: &str) -> Result<(), sqlx::Error> {
    if sql.contains(';')
        && let Some(control) = sql_scan::find(kind, sql)
    {
        let error = format!("`{}` is no part of a condition", control.statement);
        return Err(sqlx::Error::Configuration(error.into()));
    }
    Ok(())
}

/// The name of a type without what is around it and does not change how a value is stored.
fn bare(mut name: &str) -> &str {
    let around = ["core::option::Option<", "sqlx_core::types::json::Json<", json_column()];
    loop {
        name = name.trim_start_matches('&');
        let inner = |around: &&str| name.strip_prefix(around)?.strip_suffix('>');
        match around.iter().find_map(inner) {
            Some(inner) => name = inner,
            None => return name,
        }
    }
}
