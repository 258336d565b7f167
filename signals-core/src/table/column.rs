//! The typed columns of a model, and the checks of column lists that a caller passes.

use std::fmt::{self, Debug};
use std::marker::PhantomData;

use crate::error::key::no_row;
use crate::error::{Error, Result};
use crate::table::schema::{ColumnRole, Schema};

/// A column of the model `M`, such as `User::EMAIL`. `#[derive(Model)]` generates a constant for each column.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Column;
///
/// #[derive(Model)]
/// struct User { id: Option<i64>, #[model(column = "e_mail")] email: String }
///
/// const EMAIL: Column<User> = User::EMAIL;
/// assert_eq!(EMAIL.name(), "e_mail");
/// ```
pub struct Column<M: ?Sized> {
    name: &'static str,
    model: PhantomData<fn(&M)>,
}

impl<M: ?Sized> Column<M> {
    #[doc(hidden)]
    pub const fn new(name: &'static str) -> Self {
        Self { name, model: PhantomData }
    }

    /// The name of the column in the database.
    ///
    /// See the example of [`Column`].
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl<M: ?Sized> Clone for Column<M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: ?Sized> Copy for Column<M> {}

impl<M: ?Sized> PartialEq for Column<M> {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl<M: ?Sized> Eq for Column<M> {}

impl<M: ?Sized> std::hash::Hash for Column<M> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl<M: ?Sized> Debug for Column<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Column").field(&self.name).finish()
    }
}

impl<M: ?Sized> fmt::Display for Column<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The columns of a model, without its type.
pub(crate) struct ModelColumns {
    pub(crate) model: &'static str,
    pub(crate) names: &'static [&'static str],
    pub(crate) schema: &'static Schema,
}

impl ModelColumns {
    /// The indexes of these columns, which a caller wants to set, and of the `auto_now` columns.
    ///
    /// # Errors
    ///
    /// An error if the program cannot set one of the columns.
    pub(crate) fn settable(
        &self,
        fields: &mut dyn Iterator<Item = &'static str>,
    ) -> Result<Vec<usize>> {
        self.with_times(fields, |role| matches!(role, ColumnRole::Plain | ColumnRole::AutoNow))
    }

    /// As [`settable`](Self::settable), for columns that the caller gives values. Those of `auto_now` columns would be lost.
    pub(crate) fn assignable(
        &self,
        fields: &mut dyn Iterator<Item = &'static str>,
    ) -> Result<Vec<usize>> {
        self.with_times(fields, |role| matches!(role, ColumnRole::Plain))
    }

    fn with_times(
        &self,
        fields: &mut dyn Iterator<Item = &'static str>,
        may_be_set: fn(ColumnRole) -> bool,
    ) -> Result<Vec<usize>> {
        let columns = self.indexes(fields)?;
        let may_be_set = |column: usize| may_be_set(self.schema.columns[column].role);
        if let Some(column) = columns.iter().find(|column| !may_be_set(**column)) {
            let why =
                "cannot be set: it is part of the key, or the library or the database sets it";
            return Err(self.refused(*column, why));
        }
        Ok(with_times(columns, self.schema))
    }

    /// The indexes of columns that identify a row. `has_key` tells whether the row has a key.
    ///
    /// # Errors
    ///
    /// An error if there are no columns, or if the program cannot set one of them.
    pub(crate) fn unique_indexes(
        &self,
        has_key: bool,
        unique: &mut dyn Iterator<Item = &'static str>,
    ) -> Result<Vec<usize>> {
        let columns = self.indexes(unique)?;
        if columns.is_empty() {
            return Err(Error::other(format!(
                "a `{}` must be identified by at least one column",
                self.model
            )));
        }
        for column in &columns {
            match self.schema.columns[*column].role {
                ColumnRole::GeneratedKey if !has_key => return Err(no_row(self.model, None)),
                ColumnRole::Plain | ColumnRole::Key | ColumnRole::GeneratedKey => {}
                _ => {
                    return Err(self.refused(
                        *column,
                        "cannot identify a row: the library or the database sets it",
                    ));
                }
            }
        }
        Ok(columns)
    }

    fn refused(&self, column: usize, why: &str) -> Error {
        Error::other(format!("the column `{}` of `{}` {why}", self.names[column], self.model))
    }

    /// The indexes of these columns in the model, sorted and without duplicates.
    fn indexes(&self, columns: &mut dyn Iterator<Item = &'static str>) -> Result<Vec<usize>> {
        let index = |column: &'static str| {
            let index = self.names.iter().position(|name| *name == column);
            index.ok_or_else(|| Error::other(format!("`{}` has no column `{column}`", self.model)))
        };
        let mut indexes = columns.map(index).collect::<Result<Vec<_>>>()?;
        indexes.sort_unstable();
        indexes.dedup();
        Ok(indexes)
    }
}

/// Adds the `auto_now` columns.
pub(crate) fn with_times(mut columns: Vec<usize>, model: &Schema) -> Vec<usize> {
    let times = model.columns.iter().enumerate();
    columns.extend(times.filter(|(_, c)| c.role == ColumnRole::AutoNow).map(|(i, _)| i));
    columns.sort_unstable();
    columns.dedup();
    columns
}
