//! The values that are bound to a query, as a type.

use std::any::type_name;
use std::marker::PhantomData;

use sqlx::error::BoxDynError;
use sqlx::{Encode, SqlStr, Type};

use crate::database::backend::{AnyType, Arguments, Backend, DatabaseKind, Statement};
use crate::database::sql_scan;
use crate::model::Model;
use crate::model::store::{Any, Only, Portable, Route, Store};
use crate::table::field::{Notation, json_column};

/// The values that were bound before, and one more value.
pub struct And<'q, B, T> {
    pub(crate) before: B,
    pub(crate) value: T,
    pub(crate) lifetime: PhantomData<fn() -> &'q ()>,
}

/// Values that can be bound if the model `M` is stored by the route `R`.
pub trait Binds<M, R>: Send {
    #[doc(hidden)]
    fn bind(self, args: &mut Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError>;
}

/// Values that can be bound in the database `DB`.
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

/// Defines one supertrait per database. If the feature of the database is disabled, the trait requires nothing.
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

/// A callback that inspects each value, in order, before it is bound.
pub(crate) type Inspect<'i, 'f> =
    Option<&'i mut (dyn FnMut(Offered) -> Result<(), BoxDynError> + 'f)>;

/// What is known of a value before it is bound.
pub struct Offered {
    pub(crate) ty: AnyType,
    /// The name of the value's Rust type.
    name: &'static str,
    null: bool,
}

impl Offered {
    /// Whether the value is a NULL whose type is an `Option`. A NULL of another type does not count: that type may be the type
    /// of the field.
    pub(crate) fn is_none(&self) -> bool {
        let name = self.name.trim_start_matches('&');
        self.null && name.starts_with("core::option::Option<")
    }

    /// Whether the value is stored in the same form as a field whose type has this name: the value is NULL, both have the same
    /// type, or both are strings.
    pub(crate) fn is_stored_as(&self, field: &str) -> bool {
        let are_strings = || [Some(Notation::String); 2] == [self.notation(), Notation::of(field)];
        self.null || bare(self.name) == bare(field) || are_strings()
    }

    /// How the text of the value is to be read, if its type is known.
    pub(crate) fn notation(&self) -> Option<Notation> {
        Notation::of(self.name)
    }
}

/// Binds the values, each after `inspect` has accepted it.
pub(crate) fn arguments<M: Model, R: Route<M>, B: Binds<M, R>>(
    kind: DatabaseKind,
    binds: B,
    inspect: Inspect<'_, '_>,
) -> Result<Arguments, BoxDynError> {
    let mut args = Arguments::new(kind);
    binds.bind(&mut args, inspect)?;
    Ok(args)
}

/// The statement with its bound values.
pub(crate) fn statement<M: Model, R: Route<M>, B: Binds<M, R>>(
    kind: DatabaseKind,
    sql: SqlStr,
    binds: B,
) -> Result<Statement, sqlx::Error> {
    refuse_control(kind, sql.as_str())?;
    let args = arguments::<M, R, B>(kind, binds, None).map_err(sqlx::Error::Encode)?;
    Ok(Statement { sql, args, persistent: true })
}

/// Refuses a clause that begins or ends a transaction: SQLite executes every statement of a text.
pub(crate) fn refuse_control(kind: DatabaseKind, sql: &str) -> Result<(), sqlx::Error> {
    if sql.contains(';')
        && let Some(control) = sql_scan::find(kind, sql)
    {
        let error = format!("`{}` is not allowed in a condition", control.statement);
        return Err(sqlx::Error::Configuration(error.into()));
    }
    Ok(())
}

/// The name of a type without the wrappers that do not change how a value is stored.
fn bare(mut name: &str) -> &str {
    let wrappers = ["core::option::Option<", "sqlx_core::types::json::Json<", json_column()];
    loop {
        name = name.trim_start_matches('&');
        let inner = |wrapper: &&str| name.strip_prefix(wrapper)?.strip_suffix('>');
        match wrappers.iter().find_map(inner) {
            Some(inner) => name = inner,
            None => return name,
        }
    }
}
