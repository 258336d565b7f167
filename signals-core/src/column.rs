//! The columns of a model as the program names them.

use std::fmt::{self, Debug};
use std::marker::PhantomData;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::statements::{Role, Statements};

/// A column of a model, as `User::EMAIL`.
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

    /// The column's name in the database.
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

/// The places of columns that the program can set alone, and of those that are set at every write.
pub(crate) fn settable<M: Model>(fields: &[Column<M>]) -> Result<Vec<usize>> {
    let columns = places(fields)?;
    for column in &columns {
        if !matches!(M::STATEMENTS.columns[*column].role, Role::Plain | Role::AutoNow) {
            let (model, column) = (M::NAME, M::COLUMNS[*column]);
            let why = "is not the program's to set alone";
            return Err(Error::other(format!("the column `{column}` of `{model}` {why}")));
        }
    }
    Ok(with_times(columns, M::STATEMENTS))
}

/// These columns, and those that are set at every write.
pub(crate) fn with_times(mut columns: Vec<usize>, model: &Statements) -> Vec<usize> {
    let times = model.columns.iter().enumerate();
    columns.extend(times.filter(|(_, c)| c.role == Role::AutoNow).map(|(i, _)| i));
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// The columns of a row that are to be unique together.
pub(crate) fn unique_places<M: Model>(row: &M, unique: &[Column<M>]) -> Result<Vec<usize>> {
    let (model, columns) = (M::NAME, places(unique)?);
    if columns.is_empty() {
        return Err(Error::other(format!("a `{model}` is found by one column at least")));
    }
    for column in &columns {
        let name = M::COLUMNS[*column];
        match M::STATEMENTS.columns[*column].role {
            Role::GeneratedKey if row.pk().is_none() => {
                return Err(Error::NotFound { model, key: "`None`".to_owned() });
            }
            Role::Plain | Role::Key | Role::GeneratedKey => {}
            _ => {
                let why = "is not the program's to set";
                return Err(Error::other(format!("the column `{name}` of `{model}` {why}")));
            }
        }
    }
    Ok(columns)
}

/// The places of columns among those of the model, each once, in the order of the fields.
fn places<M: Model>(columns: &[Column<M>]) -> Result<Vec<usize>> {
    let place = |column: &Column<M>| {
        let place = M::COLUMNS.iter().position(|name| *name == column.name());
        place.ok_or_else(|| Error::other(format!("`{}` has no column `{column}`", M::NAME)))
    };
    let mut places = columns.iter().map(place).collect::<Result<Vec<_>>>()?;
    places.sort_unstable();
    places.dedup();
    Ok(places)
}
