//! Reads columns of an [`AnyRow`] without the type of the model.

use crate::database::backend::{AnyRow, AnyType, Backend, on};

impl AnyRow {
    /// The column with index `at`, as a Boolean.
    pub(crate) fn flag(&self, at: usize) -> Result<bool, sqlx::Error> {
        on!(AnyRow, self, DB, row => DB::get(row, at))
    }

    /// Whether a column contains the same JSON value in both rows. The order of the members of an object is irrelevant.
    pub(crate) fn is_same_json(&self, other: &AnyRow, at: usize) -> Result<bool, sqlx::Error> {
        let value = |row: &AnyRow| {
            let bytes = row.bytes(at)?;
            let value = bytes.and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
            Ok::<_, sqlx::Error>(value)
        };
        let (one, other) = (value(self)?, value(other)?);
        Ok(one.is_some() && one == other)
    }

    /// Whether a column has different values in two rows, see [`Backend::differs`].
    pub(crate) fn differs(&self, other: &AnyRow, at: usize) -> Result<bool, sqlx::Error> {
        on!(AnyRow, self, DB, row => DB::differs(row, DB::row(other), at))
    }

    /// The bytes of a column as the database sent them; `None` for NULL.
    pub(crate) fn bytes(&self, at: usize) -> Result<Option<Vec<u8>>, sqlx::Error> {
        match self {
            #[cfg(feature = "sqlite")]
            AnyRow::Sqlite(row) => sqlx::Row::try_get_unchecked(row, at),
            #[cfg(feature = "postgres")]
            AnyRow::Postgres(row) => {
                let value = sqlx::Row::try_get_raw(row, at)?;
                let is_null = sqlx::ValueRef::is_null(&value);
                let bytes = (!is_null).then(|| value.as_bytes().map(<[u8]>::to_vec));
                bytes.transpose().map_err(sqlx::Error::Decode)
            }
        }
    }

    /// The types of the columns.
    pub(crate) fn types(&self) -> Vec<AnyType> {
        on!(AnyRow, self, DB, row => {
            let columns = sqlx::Row::columns(row).iter();
            columns.map(|column| DB::any_type(sqlx::Column::type_info(column).clone())).collect()
        })
    }

    /// The first column, as an integer.
    pub(crate) fn scalar(&self) -> Result<i64, sqlx::Error> {
        on!(AnyRow, self, DB, row => DB::get(row, 0))
    }
}
