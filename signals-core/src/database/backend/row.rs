//! How a column of a row of one of the databases is read without its type.

use crate::database::backend::{AnyRow, Backend};

impl AnyRow {
    /// A column of a row, as a truth value.
    pub(crate) fn flag(&self, at: usize) -> Result<bool, sqlx::Error> {
        match self {
            #[cfg(feature = "sqlite")]
            AnyRow::Sqlite(row) => sqlx::Sqlite::get(row, at),
            #[cfg(feature = "postgres")]
            AnyRow::Postgres(row) => sqlx::Postgres::get(row, at),
        }
    }

    /// Whether a column has the same JSON in both rows. The order of the members of an object does not count.
    pub(crate) fn is_same_json(&self, other: &AnyRow, at: usize) -> Result<bool, sqlx::Error> {
        let value = |row: &AnyRow| {
            let bytes = row.bytes(at)?;
            let value = bytes.and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
            Ok::<_, sqlx::Error>(value)
        };
        let (one, other) = (value(self)?, value(other)?);
        Ok(one.is_some() && one == other)
    }

    /// Whether a column has another value in one row than in the other, as [`Backend::differs`] says.
    pub(crate) fn differs(&self, other: &AnyRow, at: usize) -> Result<bool, sqlx::Error> {
        match (self, other) {
            #[cfg(feature = "sqlite")]
            (AnyRow::Sqlite(row), AnyRow::Sqlite(other)) => sqlx::Sqlite::differs(row, other, at),
            #[cfg(feature = "postgres")]
            (AnyRow::Postgres(row), AnyRow::Postgres(other)) => {
                sqlx::Postgres::differs(row, other, at)
            }
            #[cfg(all(feature = "sqlite", feature = "postgres"))]
            _ => Ok(true),
        }
    }

    /// A column of a row as the database has sent it, NULL as nothing.
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

    /// The first column of a row, as a number.
    pub(crate) fn scalar(&self) -> Result<i64, sqlx::Error> {
        match self {
            #[cfg(feature = "sqlite")]
            AnyRow::Sqlite(row) => sqlx::Sqlite::get(row, 0),
            #[cfg(feature = "postgres")]
            AnyRow::Postgres(row) => sqlx::Postgres::get(row, 0),
        }
    }
}
