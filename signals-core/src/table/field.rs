//! How the field of a column is decoded, bound and inspected.

use std::any::{Any, TypeId, type_name};
use std::cell::{Cell, RefCell};
use std::fmt::Debug;
use std::marker::PhantomData;

use sqlx::TypeInfo;
use sqlx::error::BoxDynError;

use crate::database::backend::value::Bindable;
use crate::database::backend::{AnyRow, AnyType, Arguments, Backend, DatabaseKind, Field, Take};
use crate::table::automatic::{AutoNow, Version};
#[cfg(feature = "json")]
use crate::table::json_column::JsonColumn;
use crate::table::notation::Notation;

/// Detects at compile time what a `T` can be used for: which databases can store it, and whether it can be an `Option`, a key,
/// a version or a time. An inherent constant exists only for types that qualify; for others, the constant of [`NotStorable`] is
/// found instead.
pub struct Storable<T>(PhantomData<T>);

/// The defaults of [`Storable`], implemented for every type.
pub trait NotStorable {
    /// SQLite cannot store it.
    const SQLITE: bool = false;
    /// PostgreSQL cannot store it.
    const POSTGRES: bool = false;
    /// It is not an `Option`.
    const OPTION: bool = false;
    /// It is not an `Option` of an `Option`.
    const NESTED: bool = false;
    /// It is not `Send` and `Sync`.
    const SHARED: bool = false;
    /// It is not `Clone`.
    const CLONED: bool = false;
    /// It cannot be a key.
    const KEY: bool = false;
    /// It cannot be a version.
    const VERSION: bool = false;
    /// It cannot be an `auto_now` or `auto_now_add` column.
    const TIME: bool = false;
    /// The message that no database can store it, with the type to use instead. Empty if the name of the type says no more.
    const INSTEAD: &'static str = "";
}

impl<T> NotStorable for Storable<T> {}

impl<T: Send + Sync> Storable<T> {
    /// It is `Send` and `Sync`.
    pub const SHARED: bool = true;
}

impl<T: Clone> Storable<T> {
    /// It is `Clone`, so a failed write can restore it.
    pub const CLONED: bool = true;
}

impl<T: Clone + Debug> Storable<T> {
    /// It can be a key.
    pub const KEY: bool = true;
}

impl<T: Version> Storable<T> {
    /// It can be a version.
    pub const VERSION: bool = true;
}

impl<T: AutoNow> Storable<T> {
    /// It can be an `auto_now` or `auto_now_add` column.
    pub const TIME: bool = true;
}

#[cfg(feature = "sqlite")]
impl<T: Field<sqlx::Sqlite>> Storable<T> {
    /// SQLite can store it.
    pub const SQLITE: bool = true;
}

#[cfg(feature = "postgres")]
impl<T: Field<sqlx::Postgres>> Storable<T> {
    /// PostgreSQL can store it.
    pub const POSTGRES: bool = true;
}

macro_rules! instead {
    ($($type:ident $to:literal)*) => { $(
        impl Storable<$type> {
            /// The type to use instead, also if a type alias names it.
            pub const INSTEAD: &'static str =
                concat!("`", stringify!($type), "` cannot be a column: use `", $to, "`");
        }

        impl Storable<Option<$type>> {
            /// The type to use instead, also if a type alias names it.
            pub const INSTEAD: &'static str =
                concat!("`Option<", stringify!($type), ">` cannot be a column: use `Option<", $to, ">`");
        }
    )* };
}

instead! { u64 "i64" usize "i64" isize "i64" u128 "String" i128 "String" char "String" }

/// The first of these messages that is not empty.
pub const fn first_message(one: &'static str, other: &'static str) -> &'static str {
    if one.is_empty() { other } else { one }
}

impl<T> Storable<Option<T>> {
    /// It is an `Option`, also if it is named by a type alias.
    pub const OPTION: bool = true;
}

impl<T> Storable<Option<Option<T>>> {
    /// It is an `Option` of an `Option`: `Some(None)` and `None` would both be NULL.
    pub const NESTED: bool = true;
}

/// A question about the type of a column.
#[derive(Clone, Copy)]
pub enum Asked<'a> {
    /// Whether the field can be decoded from a value of this type.
    Reads(&'a AnyType),
    /// Whether the field can be decoded from every value of this type.
    ReadsAll(&'a AnyType),
    /// Whether the field can be decoded from every rowid of SQLite.
    ReadsRowid,
    /// Whether the column can be set to a value of this type.
    Takes(&'a AnyType),
    /// Whether a value of this type that the column can be set to is always stored in the same form as the field decoded from
    /// it.
    Keeps(&'a AnyType),
    /// Decodes the field from a row and binds it. The answer is whether both succeeded.
    Converts(&'a Conversion<'a>),
    /// Whether the fields decoded from both rows are equal. The column has this index in both.
    ReadsSame(&'a AnyRow, &'a AnyRow, usize),
    /// Whether the field can be decoded from NULL, which is the first column of this row.
    ReadsNull(&'a AnyRow),
    /// Stores the name of the type in this database. The answer is whether the type has a name.
    Name(DatabaseKind, &'a Cell<String>),
    /// Stores the name of the Rust type that represents the field. The `AnyType` only selects the database.
    TypeName(&'a AnyType, &'a Cell<&'static str>),
}

/// A value that is decoded as a field and then bound as the field.
pub struct Conversion<'a> {
    pub(crate) row: &'a AnyRow,
    pub(crate) at: usize,
    pub(crate) args: RefCell<&'a mut Arguments>,
    /// The error, if the value could not be decoded or bound.
    pub(crate) error: Cell<Option<sqlx::Error>>,
}

/// How a column of a model is stored. The generated code accesses every field through it.
///
/// If no database can store the type of the field, `STORABLE` is `false`. The derive reports this at the field; all bounds
/// still hold, so that it is the only error. `JSON` is `true` for a field with `#[model(json)]`.
pub struct Slot<const STORABLE: bool, const JSON: bool = false>;

impl<const STORABLE: bool, const JSON: bool> Slot<STORABLE, JSON> {
    /// Whether any database can store the field.
    pub const STORABLE: bool = STORABLE;
}

/// Stores fields of type `T` in the database `DB`.
pub trait Stores<T, DB: Backend> {
    /// Decodes a column of a row.
    ///
    /// # Errors
    ///
    /// An error if the column cannot be decoded.
    fn get(row: &DB::Row, at: usize) -> Result<T, sqlx::Error>;

    /// Passes the value of a field to `take`.
    ///
    /// # Errors
    ///
    /// The error of `take`.
    fn give(value: &T, take: Take<'_, DB>) -> Result<(), BoxDynError>;

    /// Answers a question about the type.
    fn asked(asked: Asked<'_>) -> bool;
}

impl<T: Field<DB>, DB: Backend> Stores<T, DB> for Slot<true> {
    fn get(row: &DB::Row, at: usize) -> Result<T, sqlx::Error> {
        DB::get(row, at)
    }

    fn give(value: &T, take: Take<'_, DB>) -> Result<(), BoxDynError> {
        match is_lost::<T, DB>(value) {
            true => Err(LOST.into()),
            false => take(value),
        }
    }

    fn asked(asked: Asked<'_>) -> bool {
        asked_of::<T, DB>(asked)
    }
}

/// What is wrong with a value that the database would store as NULL.
pub(crate) const LOST: &str = "SQLite stores NaN as NULL, and the field is no `Option`";

/// Whether a type is one of the given types, or an `Option` of one.
macro_rules! is_either {
    ($T:ty: $($type:ty),*) => {{
        let id = TypeId::of::<$T>();
        $(id == TypeId::of::<$type>() || id == TypeId::of::<Option<$type>>())||*
    }};
}

/// Whether the database would store the value as NULL, from which the field cannot be read.
fn is_lost<T: Field<DB>, DB: Backend>(value: &T) -> bool {
    // Most types are known not to be numbers with a point.
    if DB::KIND != DatabaseKind::Sqlite || is_either!(T: bool, i16, i32, i64, String) {
        return false;
    }
    let any: &dyn Any = value;
    let is_optional = || type_name::<T>().starts_with("core::option::Option<");
    match (any.downcast_ref::<f64>(), any.downcast_ref::<f32>()) {
        (Some(number), _) => number.is_nan(),
        (_, Some(number)) => number.is_nan(),
        _ => !is_optional() && DB::is_stored_as_null(value),
    }
}

/// Whether every value of a compatible database type can be decoded as a `T`. For a program's own types this is unknown, so it
/// is `false`.
fn decodes_all<T: 'static>() -> bool {
    #[cfg(feature = "uuid")]
    if is_either!(T: sqlx::types::Uuid) {
        return true;
    }
    is_either!(T: bool, i16, i32, i64, f32, f64, String, Vec<u8>)
}

fn asked_of<T: Field<DB>, DB: Backend>(asked: Asked<'_>) -> bool {
    match asked {
        Asked::Reads(ty) => T::compatible(DB::type_info(ty)),
        Asked::ReadsAll(ty) => T::compatible(DB::type_info(ty)) && decodes_all::<T>(),
        Asked::ReadsRowid => DB::holds_rowid(&T::type_info()) && !is_either!(T: u32, u64),
        Asked::Takes(ty) => {
            let ty = DB::type_info(ty);
            DB::takes(&T::type_info(), ty).unwrap_or_else(|| T::compatible(ty))
        }
        Asked::Keeps(ty) => keeps::<T, DB>(DB::type_info(ty)),
        Asked::Converts(conversion) => {
            let error = convert::<T, DB>(conversion).err();
            let done = error.is_none();
            conversion.error.set(error);
            done
        }
        Asked::ReadsSame(row, other, at) => {
            // A type of the program that is stored as an object or array is JSON too.
            let is_json = match Notation::of(type_name::<T>()) {
                Some(notation) => notation == Notation::Json,
                None => T::type_info().name() == "TEXT" && row.has_json(at),
            };
            if is_json {
                return row.is_same_json(other, at).unwrap_or(false);
            }
            let read = |row| DB::get::<T>(DB::row(row), at);
            matches!((read(row), read(other)), (Ok(one), Ok(other)) if is_same::<T, DB>(&one, &other))
        }
        Asked::ReadsNull(row) => DB::get::<T>(DB::row(row), 0).is_ok(),
        Asked::Name(_, name) => {
            let ty = T::type_info();
            // sqlx prints the type "char" of PostgreSQL in upper case, which is not its name.
            name.set(ty.name().replace("\"CHAR\"", "\"char\""));
            // sqlx prints "?" for a type of which it knows only the OID.
            ty.name() != "?"
        }
        Asked::TypeName(_, name) => {
            name.set(type_name::<T>());
            true
        }
    }
}

/// Whether every value of a type that the column can be set to is stored in the same form as the field decoded from it.
fn keeps<T: 'static, DB: Backend>(value: &DB::TypeInfo) -> bool {
    match DB::KIND {
        // PostgreSQL converts the value to the type of the column, which is that of the field.
        DatabaseKind::Postgres => decodes_all::<T>(),
        // SQLite stores the value unchanged. sqlx has a separate type for integers of up to 32 bits.
        DatabaseKind::Sqlite => {
            is_either!(T: bool, i64, f64, String, Vec<u8>)
                || is_either!(T: i32) && !DB::holds_rowid(value)
        }
    }
}

fn convert<T: Field<DB>, DB: Backend>(conversion: &Conversion<'_>) -> Result<(), sqlx::Error> {
    let value = DB::get::<T>(DB::row(conversion.row), conversion.at)?;
    let mut args = conversion.args.borrow_mut();
    Bindable::<DB>::bind(&value, DB::arguments(&mut args)).map_err(sqlx::Error::Encode)
}

/// Whether two values are equal. A field need not implement `PartialEq`, so the encoded values are compared.
fn is_same<T: Field<DB>, DB: Backend>(one: &T, other: &T) -> bool {
    let encoded = |value: &T| {
        let mut all = Vec::new();
        DB::encoded(value, &mut all).map(|()| all)
    };
    #[cfg(any(feature = "chrono", feature = "time"))]
    if let Some(is_same) = is_same_time(one, other) {
        return is_same;
    }
    matches!((encoded(one), encoded(other)), (Ok(one), Ok(other)) if one == other)
}

/// Whether two values are the same time. `None` if their type does not store an offset. Equal times with different offsets have
/// different encoded values, so they are compared as times.
#[cfg(any(feature = "chrono", feature = "time"))]
fn is_same_time(one: &dyn Any, other: &dyn Any) -> Option<bool> {
    #[cfg(feature = "chrono")]
    use sqlx::types::chrono::{DateTime, FixedOffset};
    #[cfg(feature = "time")]
    use sqlx::types::time::OffsetDateTime;

    fn are_equal<T: PartialEq + 'static>(one: &dyn Any, other: &dyn Any) -> Option<bool> {
        let value = || Some(one.downcast_ref::<T>()? == other.downcast_ref()?);
        let option = || Some(one.downcast_ref::<Option<T>>()? == other.downcast_ref()?);
        value().or_else(option)
    }
    let is_same = None;
    #[cfg(feature = "chrono")]
    let is_same = is_same.or_else(|| are_equal::<DateTime<FixedOffset>>(one, other));
    #[cfg(feature = "time")]
    let is_same = is_same.or_else(|| are_equal::<OffsetDateTime>(one, other));
    is_same
}

const REPORTED: &str = "the build has failed at this field";

impl<T, DB: Backend, const JSON: bool> Stores<T, DB> for Slot<false, JSON> {
    fn get(_: &DB::Row, _: usize) -> Result<T, sqlx::Error> {
        unreachable!("{REPORTED}")
    }

    fn give(_: &T, _: Take<'_, DB>) -> Result<(), BoxDynError> {
        unreachable!("{REPORTED}")
    }

    fn asked(_: Asked<'_>) -> bool {
        unreachable!("{REPORTED}")
    }
}

#[cfg(feature = "json")]
impl<T, DB: Backend> Stores<T, DB> for Slot<true, true>
where
    JsonColumn<T>: Field<DB>,
    for<'j> JsonColumn<&'j T>: crate::database::backend::Bindable<DB>,
{
    fn get(row: &DB::Row, at: usize) -> Result<T, sqlx::Error> {
        DB::get::<JsonColumn<T>>(row, at).map(|json| json.0)
    }

    fn give(value: &T, take: Take<'_, DB>) -> Result<(), BoxDynError> {
        take(&JsonColumn(value))
    }

    fn asked(asked: Asked<'_>) -> bool {
        asked_of::<JsonColumn<T>, DB>(asked)
    }
}

/// Passes a key that the database assigns to `take`.
///
/// # Errors
///
/// The error of `take`, or an error if the key is `None`.
pub fn give_key<DB: Backend, S: Stores<T, DB>, T>(
    key: &Option<T>,
    take: Take<'_, DB>,
) -> Result<(), BoxDynError> {
    match key {
        Some(key) => S::give(key, take),
        None => Err("the row has no key yet".into()),
    }
}

/// The error for an index that no column has.
///
/// # Errors
///
/// Always.
pub fn no_column(column: usize) -> Result<(), BoxDynError> {
    Err(format!("there is no column {column}").into())
}
