//! Values that are bound as arguments of a statement, independent of their Rust type.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::{Decode, Encode, Type};

use super::Backend;

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

/// Receives the value of a column.
pub type Take<'t, DB> = &'t mut dyn FnMut(&dyn Bindable<DB>) -> Result<(), BoxDynError>;

/// A value of any type that can be bound to a statement of this database.
pub trait Bindable<DB: Backend> {
    /// Adds the value to the arguments of a statement.
    ///
    /// # Errors
    ///
    /// If the value cannot be encoded.
    fn bind(&self, args: &mut DB::Arguments) -> Result<(), BoxDynError>;

    /// Adds the value as an argument that is compared with its column.
    ///
    /// # Errors
    ///
    /// If the value cannot be encoded.
    fn bind_compared(&self, args: &mut DB::Arguments) -> Result<(), BoxDynError>;

    /// The type with which the value is sent to the database.
    fn type_info(&self) -> DB::TypeInfo;

    /// Encodes the value.
    ///
    /// # Errors
    ///
    /// If the value cannot be encoded.
    fn encode(&self, buffer: &mut DB::ArgumentBuffer) -> Result<IsNull, BoxDynError>;

    /// Writes the header of an empty array of values of this type.
    ///
    /// # Errors
    ///
    /// If the database has no arrays.
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
