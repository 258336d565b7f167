//! Reads columns of an [`AnyRow`] without the type of the model.

use serde_json::{Number, Value};

use crate::database::backend::{AnyRow, AnyType, Backend, on};

/// Whether two JSON values are equal. The numbers 1 and 1.0 are, as in PostgreSQL's `jsonb`.
fn are_equal(one: &Value, other: &Value) -> bool {
    let integer = |number: &Number| {
        let integer = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
        let whole = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e30);
        integer.or(whole.map(|float| float as i128))
    };
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || integer(one).is_some_and(|one| integer(other) == Some(one))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| are_equal(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let same = |(name, one)| other.get(name).is_some_and(|other| are_equal(one, other));
            one.len() == other.len() && one.iter().all(same)
        }
        _ => one == other,
    }
}

impl AnyRow {
    /// The column with index `at`, as a Boolean.
    pub(crate) fn flag(&self, at: usize) -> Result<bool, sqlx::Error> {
        on!(AnyRow, self, DB, row => DB::get(row, at))
    }

    /// Whether a column contains the same JSON value in both rows. The order of the members of an object is irrelevant.
    pub(crate) fn is_same_json(&self, other: &AnyRow, at: usize) -> Result<bool, sqlx::Error> {
        let (one, other) = (self.json(at)?, other.json(at)?);
        Ok(one.zip(other).is_some_and(|(one, other)| are_equal(&one, &other)))
    }

    /// Whether a column contains the text of a JSON object or array.
    pub(crate) fn has_json(&self, at: usize) -> bool {
        matches!(self.json(at), Ok(Some(Value::Object(_) | Value::Array(_))))
    }

    /// A column as JSON; `None` if it is NULL or not JSON.
    fn json(&self, at: usize) -> Result<Option<Value>, sqlx::Error> {
        Ok(self.bytes(at)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
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
