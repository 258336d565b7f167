//! A difference between a table and its model, and how to mend it.

use crate::database::backend::DatabaseKind;
use crate::model::check::create_table::WITHOUT_ROWID;
use crate::model::check::rebuild::rebuild;
use crate::model::check::table::Table;
use crate::model::ddl::Ddl;

/// A difference between a table and its model.
pub(super) struct Finding {
    pub(super) text: String,
    pub(super) fix: Fix,
    /// SQLite: the column in which the SQL replaces NULL by a value.
    pub(super) filled: Option<usize>,
}

impl Finding {
    pub(super) fn new(text: String, fix: Fix) -> Self {
        Self { text, fix, filled: None }
    }
}

/// How to mend a table.
pub(super) enum Fix {
    /// Not by SQL that can be told in advance.
    None,
    Sql(String),
    /// SQLite: by creating the table again.
    Rebuild,
}

impl Fix {
    /// On SQLite, which cannot alter columns, the table has to be created again.
    pub(super) fn alter(ddl: &Ddl, sql: Option<String>) -> Self {
        match (ddl.kind, sql) {
            (DatabaseKind::Sqlite, _) => Self::Rebuild,
            (_, Some(sql)) => Self::Sql(sql),
            (_, None) => Self::None,
        }
    }
}

/// The findings with their SQL. If a table has to be created again, that mends everything at once.
pub(super) fn with_fixes(findings: Vec<Finding>, ddl: &Ddl, existing: &Table) -> Vec<String> {
    let rebuilds = findings.iter().any(|f| matches!(f.fix, Fix::Rebuild));
    let filled: Vec<_> = findings.iter().filter_map(|f| f.filled).collect();
    let mut rebuild = rebuilds.then(|| {
        let sql = rebuild(ddl, existing, &filled);
        // A key that the database assigns needs a table with rowids.
        let is_wanted =
            |lost: &&&str| **lost != WITHOUT_ROWID || !ddl.model.statements.generates_key();
        let lost: Vec<_> = existing.lost.iter().filter(is_wanted).copied().collect();
        match &lost[..] {
            [] => format!("; to mend it: {sql}"),
            lost => {
                let lost = lost.join(", ");
                format!(
                    " (the SQL does not keep the {lost} of the table: add it); to mend it: {sql}"
                )
            }
        }
    });
    let text = |Finding { text, fix, .. }: Finding| match (fix, rebuilds) {
        (Fix::None, _) => text,
        (_, true) => match rebuild.take() {
            Some(fix) => format!("{text}{fix}"),
            None => format!("{text}; the SQL of the first finding of this table mends it"),
        },
        (Fix::Sql(sql), false) => format!("{text}; to mend it: {sql}"),
        (Fix::Rebuild, false) => text,
    };
    findings.into_iter().map(text).collect()
}
