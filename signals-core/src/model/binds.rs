//! The values that are bound to a query, without their types.

use std::any::type_name;
use std::marker::PhantomData;

use sqlx::error::BoxDynError;
use sqlx::{Encode, SqlStr, Type};

use crate::database::backend::{AnyType, Arguments, Backend, DatabaseKind, Statement, on};
use crate::database::sql::Value;
use crate::database::sql_scan;
use crate::model::Model;
use crate::model::store::{Any, Only, Route};
use crate::table::notation::{Notation, json_column};

/// A value that can be bound to a [`Query`](crate::Query).
///
/// If the query runs on a pool or connection of sqlx, it is any value that this database can store. If the query runs on a
/// [`Db`](crate::Db), [`Conn`](crate::Conn) or [`Transaction`](crate::Transaction), it is any [`Value`](crate::Value), which
/// every enabled database can store.
#[diagnostic::on_unimplemented(
    message = "a value of type `{Self}` cannot be bound to this query",
    label = "not a column type of the database",
    note = "sqlx stores numbers, strings, times and other types of its features; `#[derive(sqlx::Type)]` makes others storable",
    note = "a function that is generic over `Executor` binds to a query that runs on `db.acquire().await?`"
)]
pub trait Argument<'q, R>: Send + 'q {
    #[doc(hidden)]
    fn add(self, args: &mut Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError>;

    /// Adds the value as an argument that is compared with a column.
    #[doc(hidden)]
    fn add_compared(self, args: &mut Arguments) -> Result<(), BoxDynError>;

    /// Whether the value is stored as NULL.
    #[doc(hidden)]
    fn is_null(&self) -> bool;
}

impl<'q, DB: Backend, T: Encode<'q, DB> + Type<DB> + Send + 'q> Argument<'q, Only<DB>> for T {
    fn add(self, args: &mut Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError> {
        add::<DB, T>(self, DB::arguments(args), inspect)
    }

    fn add_compared(self, args: &mut Arguments) -> Result<(), BoxDynError> {
        DB::add_compared(DB::arguments(args), self)
    }

    fn is_null(&self) -> bool {
        DB::is_null(self)
    }
}

impl<'q, T: Value<'q> + 'q> Argument<'q, Any> for T {
    fn add(self, args: &mut Arguments, inspect: Inspect<'_, '_>) -> Result<(), BoxDynError> {
        on!(Arguments, args, DB, args => add::<DB, T>(self, args, inspect))
    }

    fn add_compared(self, args: &mut Arguments) -> Result<(), BoxDynError> {
        on!(Arguments, args, DB, args => DB::add_compared(args, self))
    }

    fn is_null(&self) -> bool {
        #[cfg(feature = "sqlite")]
        return sqlx::Sqlite::is_null(self);
        #[cfg(not(feature = "sqlite"))]
        return sqlx::Postgres::is_null(self);
    }
}

fn add<'q, DB: Backend, T: Encode<'q, DB> + Type<DB>>(
    value: T,
    args: &mut DB::Arguments,
    inspect: Inspect<'_, '_>,
) -> Result<(), BoxDynError> {
    if let Some(inspect) = inspect {
        let ty = value.produces().unwrap_or_else(T::type_info);
        let name = type_name::<T>();
        let (null, lost) = (DB::is_null(&value), DB::is_stored_as_null(&value));
        inspect(Offered { ty: DB::any_type(ty), name, null, lost })?;
    }
    sqlx::Arguments::add(args, value)
}

/// One value, or several as a tuple, or none as `()`. `N` is inferred; it tells a tuple of values from a value that is a tuple.
pub trait ArgumentList<'q, R, N>: Send + 'q {
    #[doc(hidden)]
    fn push(self, values: &mut Values<'q>);
}

impl<'q, R: 'static, T: Argument<'q, R>> ArgumentList<'q, R, [(); 1]> for T {
    fn push(self, values: &mut Values<'q>) {
        values.push::<R, T>(self);
    }
}

impl<R> ArgumentList<'_, R, ()> for () {
    fn push(self, _: &mut Values<'_>) {}
}

macro_rules! argument_lists {
    ($($N:literal: $($T:ident)+,)*) => { $(
        impl<'q, R: 'static, $($T: Argument<'q, R>),+> ArgumentList<'q, R, ([(); $N],)> for ($($T,)+) {
            fn push(self, values: &mut Values<'q>) {
                #[allow(non_snake_case)]
                let ($($T,)+) = self;
                $(values.push::<R, $T>($T);)+
            }
        }
    )* };
}

argument_lists!(1: A, 2: A B, 3: A B C, 4: A B C D, 5: A B C D E, 6: A B C D E F,);

/// Values of any types, in the order of their placeholders.
#[derive(Default)]
pub struct Values<'q> {
    values: Vec<Box<dyn Bound + 'q>>,
}

/// A value whose type is erased.
trait Bound: Send {
    fn add(
        self: Box<Self>,
        args: &mut Arguments,
        inspect: Inspect<'_, '_>,
    ) -> Result<(), BoxDynError>;
}

struct One<'q, R, T> {
    value: T,
    route: PhantomData<fn() -> &'q R>,
}

impl<'q, R, T: Argument<'q, R>> Bound for One<'q, R, T> {
    fn add(
        self: Box<Self>,
        args: &mut Arguments,
        inspect: Inspect<'_, '_>,
    ) -> Result<(), BoxDynError> {
        self.value.add(args, inspect)
    }
}

/// A value that is compared with a column. It is not inspected.
struct Compared<'q, R, T> {
    value: T,
    route: PhantomData<fn() -> &'q R>,
}

impl<'q, R, T: Argument<'q, R>> Bound for Compared<'q, R, T> {
    fn add(self: Box<Self>, args: &mut Arguments, _: Inspect<'_, '_>) -> Result<(), BoxDynError> {
        self.value.add_compared(args)
    }
}

/// The columns of a key. They are not inspected.
struct OfKey<M: Model, R> {
    key: M::Pk,
    route: PhantomData<fn() -> R>,
}

impl<M: Model, R: Route<M>> Bound for OfKey<M, R> {
    fn add(self: Box<Self>, args: &mut Arguments, _: Inspect<'_, '_>) -> Result<(), BoxDynError> {
        R::bind_key(&self.key, args)
    }
}

impl<'q> Values<'q> {
    pub(crate) fn push<R: 'static, T: Argument<'q, R>>(&mut self, value: T) {
        self.values.push(Box::new(One::<R, T> { value, route: PhantomData }));
    }

    /// As [`push`](Self::push), for a value that is compared with a column.
    pub(crate) fn push_compared<R: 'static, T: Argument<'q, R>>(&mut self, value: T) {
        self.values.push(Box::new(Compared::<R, T> { value, route: PhantomData }));
    }

    /// The values of the columns of a key.
    pub(crate) fn of_key<M: Model, R: Route<M>>(key: M::Pk) -> Self {
        Self { values: vec![Box::new(OfKey::<M, R> { key, route: PhantomData })] }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.values.append(&mut other.values);
    }

    /// Binds the values, each after `inspect` has accepted it.
    pub(crate) fn bind(
        self,
        kind: DatabaseKind,
        mut inspect: Inspect<'_, '_>,
    ) -> Result<Arguments, BoxDynError> {
        let mut args = Arguments::new(kind);
        for value in self.values {
            value.add(&mut args, inspect.as_deref_mut())?;
        }
        Ok(args)
    }

    /// The statement with these values.
    pub(crate) fn statement(
        self,
        kind: DatabaseKind,
        sql: SqlStr,
        persistent: bool,
    ) -> Result<Statement, sqlx::Error> {
        refuse_control(kind, sql.as_str())?;
        let args = self.bind(kind, None).map_err(sqlx::Error::Encode)?;
        Ok(Statement { sql, args, persistent, is_single: false })
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
    /// Whether it is a number that the database stores as NULL.
    pub(crate) lost: bool,
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
