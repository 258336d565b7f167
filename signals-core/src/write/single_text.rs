//! The text and the arguments of the statements that store one row.

use std::sync::Arc;

use crate::database::backend::{AnyRow, Arguments, DatabaseKind, Statement};
use crate::error::Result;
use crate::table::chunk::inserted;
use crate::table::rows::Rows;
use crate::table::schema::{ColumnGroup, ColumnRole, Schema};
use crate::table::statement_spec::{RowInput, StatementKind, StatementSpec};

pub(super) const EVERY: [ColumnGroup; 4] =
    [ColumnGroup::Set, ColumnGroup::Key, ColumnGroup::Version, ColumnGroup::Added];

/// The SQL text of a statement for a single row.
#[derive(Clone)]
pub(super) enum Text {
    /// A fixed text, the columns that are its arguments, and the columns that it returns.
    Fixed(&'static str, &'static [ColumnGroup], &'static [ColumnGroup]),
    Composed(Arc<StatementSpec>),
}

impl Text {
    /// The INSERT of a row that may conflict with another one in the columns `on`.
    pub(super) fn insert(kind: StatementKind, rows: &dyn Rows, on: &[usize]) -> Self {
        let columns = inserted(rows, rows.has_key(0));
        Self::Composed(StatementSpec::new(kind, RowInput::Values(1), columns, on.to_vec()).into())
    }

    /// The UPDATE of the columns `set` of the row that is found by the columns `on`.
    pub(super) fn update(set: Vec<usize>, on: Vec<usize>, checked: bool) -> Self {
        let spec = StatementSpec::new(StatementKind::UpdateOne, RowInput::Values(1), set, on);
        Self::Composed(StatementSpec { checked, ..spec }.into())
    }

    pub(super) fn statement(
        &self,
        rows: &dyn Rows,
        kind: DatabaseKind,
    ) -> Result<Statement, sqlx::Error> {
        let mut args = Arguments::new(kind);
        self.bind(rows, &mut args)?;
        Ok(match self {
            Self::Fixed(sql, ..) => Statement::fixed(sql, args),
            Self::Composed(spec) => {
                let sql = rows.statement_cache().sql(spec, rows.schema(), kind);
                Statement::prepared(sql, args)
            }
        })
    }

    /// Adds the arguments of the statement.
    pub(super) fn bind(&self, rows: &dyn Rows, args: &mut Arguments) -> Result<(), sqlx::Error> {
        let model = rows.schema();
        let mut bind = |column, is_compared| {
            let bound = match is_compared {
                true => rows.bind_compared(0, column, args),
                false => rows.bind(0, column, args),
            };
            bound.map_err(sqlx::Error::Encode)
        };
        // An argument that is also stored is bound with the type of the field.
        match self {
            Self::Fixed(_, groups, _) => {
                let stores_key = groups.contains(&ColumnGroup::Added);
                for &group in *groups {
                    let is_compared = group == ColumnGroup::Key && !stores_key;
                    model.group(group).try_for_each(|column| bind(column, is_compared))?;
                }
            }
            Self::Composed(spec) => {
                let finds = matches!(
                    spec.kind,
                    StatementKind::UpdateOne | StatementKind::Find | StatementKind::CheckVersion
                );
                for column in spec.binds(model) {
                    let is_stored = spec.columns.contains(&column);
                    bind(column, finds && !is_stored && spec.on.contains(&column))?;
                }
            }
        }
        Ok(())
    }

    /// The text, if it is fixed.
    pub(super) fn fixed(&self) -> Option<&'static str> {
        match self {
            Self::Fixed(sql, ..) => Some(sql),
            Self::Composed(_) => None,
        }
    }

    /// Whether the statement returns any column.
    pub(super) fn returns(&self, model: &Schema) -> bool {
        match self {
            Self::Fixed(_, _, returned) => returned.iter().any(|group| model.has(*group)),
            Self::Composed(spec) => !spec.returned(model).is_empty(),
        }
    }

    /// The columns that the statement returns.
    pub(super) fn returned(&self, model: &Schema) -> Vec<usize> {
        match self {
            Self::Fixed(_, _, returned) => {
                returned.iter().flat_map(|group| model.group(*group)).collect()
            }
            Self::Composed(spec) => spec.returned(model),
        }
    }

    /// Whether the statement stores nothing if the version differs. Other statements return the
    /// version.
    pub(super) fn asks_version(&self) -> bool {
        match self {
            Self::Fixed(..) => true,
            Self::Composed(spec) => spec.checked,
        }
    }

    /// Reads the returned columns, starting at column `at` of the database row. If the row is
    /// `committed`, an `auto_now_add` column that cannot be decoded (`infinity`, for example) is
    /// left unchanged. The alternative would be a transaction around every UPDATE, which costs too
    /// much.
    pub(super) fn take(
        &self,
        rows: &mut dyn Rows,
        from: &AnyRow,
        at: usize,
        committed: bool,
    ) -> Result<(), sqlx::Error> {
        let model = rows.schema();
        let mut at = at..;
        let mut take = |column| {
            let done = rows.set(0, column, from, at.next().unwrap_or_default());
            match done {
                Err(error) if committed && model.columns[column].role == ColumnRole::AutoNowAdd => {
                    let (model, column) = (rows.model(), rows.columns()[column]);
                    tracing::warn!(
                        model,
                        column,
                        %error,
                        "a column of a row that is stored could not be read, and is left unchanged"
                    );
                    Ok(())
                }
                done => done,
            }
        };
        match self {
            Self::Fixed(_, _, returned) => {
                returned.iter().flat_map(|group| model.group(*group)).try_for_each(take)
            }
            Self::Composed(spec) => spec.returned(model).into_iter().try_for_each(&mut take),
        }
    }
}

/// Reads columns that are adjacent in a database row.
pub(crate) fn take_row(
    rows: &mut dyn Rows,
    row: usize,
    columns: impl IntoIterator<Item = usize>,
    from: &AnyRow,
    at: usize,
) -> Result<(), sqlx::Error> {
    let mut columns = columns.into_iter().enumerate();
    columns.try_for_each(|(i, column)| rows.set(row, column, from, at + i))
}
