//! The given rows of a statement as a table expression.

use std::fmt::Write;

use crate::database::backend::DatabaseKind;
use crate::table::compose::{Composer, comma};
use crate::table::expression::{ESTIMATED_ROWS, subscripts, unnest};
use crate::table::statement_spec::RowInput;

impl Composer<'_> {
    pub(super) fn with(&self) -> String {
        let (name, rows) = self.given_rows();
        format!("WITH {name} AS ({rows})")
    }

    /// The given rows as a table expression: its name, with the names of its columns if the query does not name them, and its query.
    pub(super) fn given_rows(&self) -> (String, String) {
        let (given, binds) = (&self.given, self.spec.input_columns(self.model, self.kind));
        match self.spec.input {
            RowInput::Arrays => {
                let columns = binds.iter().enumerate();
                let column = |(i, c): (usize, &usize)| {
                    format!("{}{} AS c{c}, ", unnest(i + 1), self.cast(*c))
                };
                let columns: String = columns.map(column).collect();
                (given.clone(), format!("SELECT {columns}{} AS _n", subscripts("$1")))
            }
            RowInput::Values(rows) => {
                // The first row determines the type of all.
                let cast = |row| match self.kind {
                    DatabaseKind::Postgres if row == 0 => "::bigint",
                    _ => "",
                };
                let comma = comma(binds.len());
                let number = |row| format!("{comma}{}{}", row + 1, cast(row));
                let values = self.values(rows, binds.len(), number);
                let columns: String = binds.iter().map(|c| format!("c{c}, ")).collect();
                if rows == 1 || self.kind == DatabaseKind::Sqlite {
                    return (format!("{given}({columns}_n)"), format!("VALUES {values}"));
                }
                let typed: String =
                    binds.iter().map(|c| format!("c{c}{} AS c{c}, ", self.cast(*c))).collect();
                let rows = format!(
                    "SELECT {typed}_n * {} AS _n FROM (VALUES {values}) AS _rows({columns}_n) LIMIT {ESTIMATED_ROWS}",
                    subscripts("'{0}'::int[]")
                );
                (given.clone(), rows)
            }
        }
    }

    /// Rows of placeholders. `suffix` returns the text that follows the placeholders of a row.
    pub(super) fn values(
        &self,
        rows: usize,
        columns: usize,
        suffix: impl Fn(usize) -> String,
    ) -> String {
        let mut values = String::new();
        for row in 0..rows {
            let _ = write!(values, "{}(", if row == 0 { "" } else { ", " });
            for column in 0..columns {
                let _ = match self.kind {
                    // Without a number, because SQLite searches the list of all parameters for each numbered one.
                    DatabaseKind::Sqlite => write!(values, "{}?", comma(column)),
                    DatabaseKind::Postgres => {
                        write!(values, "{}${}", comma(column), row * columns + column + 1)
                    }
                };
            }
            let _ = write!(values, "{})", suffix(row));
        }
        values
    }
}
