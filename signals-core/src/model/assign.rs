//! The columns that an update by condition sets, and whether a value fits its column.

use std::cell::Cell;

use sqlx::SqlStr;

use crate::database::backend::DatabaseKind;
use crate::error::Error;
use crate::model::Model;
use crate::model::binds::Offered;
use crate::model::store::Route;
use crate::table::column::Column;
use crate::table::field::{Asked, LOST};
use crate::table::notation::Notation;

/// What an update sets a column to.
pub(crate) enum SetTo {
    /// The value with this number (`$1` is 1).
    Value(usize),
    /// An SQL expression. Its placeholders count its own `values` values; `before` values precede them in the statement, not
    /// counting those of the query.
    Sql { sql: SqlStr, before: usize, values: usize },
}

/// The columns that an update sets, as indexes, each with the number of its value (`$1` is 1).
pub(crate) struct Set<M> {
    pub(crate) values: Vec<(usize, usize)>,
    /// The columns that are set to an SQL expression, with the numbers of the statement's placeholders.
    pub(crate) expressions: Vec<(usize, String)>,
    /// The `auto_now` columns, likewise.
    pub(crate) times: Vec<(usize, usize)>,
    /// The columns that the query names, for events.
    pub(crate) fields: Vec<Column<M>>,
}

impl<M: Model> Set<M> {
    pub(crate) fn value(&self, column: usize) -> Option<usize> {
        self.values.iter().find(|(set, _)| *set == column).map(|(_, value)| *value)
    }

    /// The SQL of the column's new value, converted to the type of the column.
    pub(crate) fn new_value<R: Route<M>>(
        &self,
        kind: DatabaseKind,
        column: usize,
    ) -> Option<String> {
        let number = |value| typed::<M, R>(kind, column, &format!("${value}"));
        let expression = || {
            let (_, sql) = self.expressions.iter().find(|(set, _)| *set == column)?;
            let name = Cell::new(String::new());
            R::asked(column, Asked::Name(kind, &name));
            let value = format!("({sql}\n)");
            Some(match (kind, &*name.take()) {
                // A column with this type converts numbers to text.
                (DatabaseKind::Sqlite, "TEXT") => format!("CAST({value} AS TEXT)"),
                // A column with this type converts what is equal to an integer (https://www.sqlite.org/datatype3.html#type_affinity).
                (DatabaseKind::Sqlite, "INTEGER") => format!(
                    "(SELECT CASE WHEN CAST(_value AS INTEGER) = _value THEN CAST(_value AS INTEGER) ELSE _value END FROM \
                     (SELECT {value} AS _value))"
                ),
                // The type of the CASE is found by implicit casts, so that this CAST accepts no more than an UPDATE: no text for a number.
                (DatabaseKind::Postgres, ty) if IMPLICITLY_CAST.contains(&ty) => {
                    let stored = M::STATEMENTS.name(column);
                    typed::<M, R>(
                        kind,
                        column,
                        &format!("CASE WHEN true THEN {value} ELSE {stored} END"),
                    )
                }
                _ => typed::<M, R>(kind, column, &value),
            })
        };
        self.value(column).map(number).or_else(expression)
    }
}

/// The types of PostgreSQL for which every value that an UPDATE converts to them has a common type with them.
const IMPLICITLY_CAST: [&str; 10] = [
    "INT2", "INT4", "INT8", "FLOAT4", "FLOAT8", "NUMERIC", "BOOL", "DATE", "TIMESTAMP",
    "TIMESTAMPTZ",
];

/// Whether the column stores the value in the form in which it would store the field.
pub(crate) fn is_stored_as_field<M: Model, R: Route<M>>(column: usize, offered: &Offered) -> bool {
    let field = Cell::new("");
    R::asked(column, Asked::TypeName(&offered.ty, &field));
    offered.is_stored_as(field.get()) || R::asked(column, Asked::Keeps(&offered.ty))
}

/// The error if a column cannot be set to a value.
pub(crate) fn misfit<M: Model, R: Route<M>>(column: usize, offered: &Offered) -> Option<Error> {
    let spec = M::STATEMENTS.columns[column];
    let field = Cell::new("");
    R::asked(column, Asked::TypeName(&offered.ty, &field));
    let why = if let (Some(Notation::Json), Some(Notation::String)) =
        (Notation::of(field.get()), offered.notation())
    {
        "a string: a field of JSON is set to `Json<T>`".to_owned()
    } else if let (Some(Notation::String), Some(Notation::Json)) =
        (Notation::of(field.get()), offered.notation())
    {
        "JSON: the field is a string".to_owned()
    } else if !R::asked(column, Asked::Takes(&offered.ty)) {
        format!("a value of type {}", offered.ty.name())
    } else if offered.is_none() && !spec.optional {
        "`None`: the field is no `Option`".to_owned()
    } else if offered.lost && !spec.optional {
        format!("NaN: {LOST}")
    } else {
        return None;
    };
    let (model, column) = (M::NAME, M::COLUMNS[column]);
    Some(Error::other(format!("the column `{column}` of `{model}` cannot be set to {why}")))
}

/// The SQL of a value converted to the column's type, as an UPDATE converts it, so that the field can be decoded from it.
pub(crate) fn typed<M: Model, R: Route<M>>(
    kind: DatabaseKind,
    column: usize,
    value: &str,
) -> String {
    let name = Cell::new(String::new());
    let named = R::asked(column, Asked::Name(kind, &name));
    let ty = name.take();
    match kind {
        DatabaseKind::Postgres if named => format!("CAST({value} AS {ty})"),
        DatabaseKind::Postgres => {
            format!("CASE WHEN true THEN {value} ELSE {} END", M::STATEMENTS.name(column))
        }
        // REAL is the only column type to which SQLite converts a value that the field accepts.
        DatabaseKind::Sqlite if ty == "REAL" => format!("CAST({value} AS REAL)"),
        DatabaseKind::Sqlite => value.to_owned(),
    }
}
