//! Compares tables with their models, for [`Db::check`] and `Model::check_table`.

mod column_types;
mod create_table;
mod finding;
mod rebuild;
mod table;

use crate::database::backend::{Arguments, DatabaseKind, Statement};
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::check::finding::{Finding, Fix, with_fixes};
use crate::model::check::table::{Column, Computed, Index, Table};
use crate::model::ddl::{Ddl, identifier, one_line};
use crate::model::store::Route;
use crate::signal::registry::registry;
use crate::signal::relation::{self, Ask, ModelInfo};
use crate::table::field::Asked;
use crate::table::schema::{ColumnGroup, ColumnRole, ColumnSpec};
use crate::table::statement_spec::StatementKind;
use crate::task::info::Asks;

/// Compares the table of one model with the model.
pub(crate) async fn model<M: Model, R: Route<M>>(source: Source<'_>) -> Result<()> {
    let findings = table(&mut source.acquire().await?, ModelInfo::of::<M>(), R::asked).await?;
    if findings.is_empty() { Ok(()) } else { Err(Error::Check { findings }) }
}

/// Compares the table of every linked model that this database can store.
pub(crate) async fn every_model(conn: &mut Conn<'_>) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for linked in relation::models() {
        if let Some((model, ask)) = linked.stored_in(conn.kind()) {
            findings.extend(table(conn, model, ask).await?);
        }
    }
    Ok(findings)
}

/// The differences between the table and the model, one sentence each.
async fn table(conn: &mut Conn<'_>, described: ModelInfo, ask: Ask) -> Result<Vec<String>> {
    let of = format!("`{}` (table `{}`)", described.name, described.table);
    let found = table::read(conn, &described).await?;
    let reads_null = match &found {
        Some(table) => nullable_fields(conn, table, &described, ask).await?,
        None => Vec::new(),
    };
    let ddl = Ddl::new(conn.kind(), described);
    let Some(table) = found else {
        let (text, sql) = (format!("{of}: there is no such table"), one_line(&ddl.create_table()));
        let finding = Finding::new(text, Fix::Sql(sql));
        return Ok(with_fixes(vec![finding], &ddl, &Table::default()));
    };
    let mut findings = Vec::new();
    if table.is_view {
        let text = format!("{of}: this is a view, not a table");
        findings.push(Finding::new(text, Fix::None));
    }
    for (index, reads_null) in reads_null.into_iter().enumerate() {
        of_column(&of, &ddl, ask, &table, (index, reads_null), &mut findings);
    }
    of_rest(&of, &ddl, &table, &mut findings);
    if table.is_view || table.is_virtual(ddl.kind) {
        findings.iter_mut().for_each(|finding| finding.fix = Fix::None);
    }
    Ok(with_fixes(findings, &ddl, &table))
}

/// The findings about a column of the model.
fn of_column(
    of: &str,
    ddl: &Ddl,
    ask: Ask,
    table: &Table,
    (index, reads_null): (usize, bool),
    findings: &mut Vec<Finding>,
) {
    let (column, spec) = (ddl.model.columns[index], &ddl.model.statements.columns[index]);
    let Some(found) = table.columns.iter().find(|c| c.name == *column) else {
        let fix = ddl.add_column(index).map_or_else(|| Fix::alter(ddl, None), Fix::Sql);
        findings.push(Finding::new(format!("{of}: there is no column `{column}`"), fix));
        if spec.unique {
            findings.extend(missing_index(of, ddl, table, &[index], "`#[model(unique)]`"));
        }
        return;
    };
    if !found.types.is_empty() && !found.types.iter().any(|ty| ask(index, Asked::Reads(ty))) {
        let ty = &found.type_name;
        let stored =
            if found.is_numeric { ", in which SQLite stores a number as such" } else { "" };
        let text = format!(
            "{of}: the column `{column}` is of type {ty}{stored}, which the field cannot be read from"
        );
        match ddl.change_type(index, &found.type_name) {
            None if ddl.kind == DatabaseKind::Postgres => {
                findings.push(Finding::new(format!("{text}{LOSES}"), Fix::None));
            }
            sql => findings.push(Finding::new(text, Fix::alter(ddl, sql))),
        }
    }
    let is_key = spec.role.group() == ColumnGroup::Key;
    let is_written = !matches!(spec.role, ColumnRole::Generated | ColumnRole::GeneratedKey);
    match found.computed {
        Some(Computed::Expression) if is_written => {
            let text = format!(
                "{of}: the database computes the column `{column}`, and the model writes it: put `#[model(generated)]` on the field"
            );
            findings.push(Finding::new(text, Fix::None));
        }
        Some(Computed::Identity) if is_written => {
            let text = format!(
                "{of}: the column `{column}` is GENERATED ALWAYS AS IDENTITY, and the model writes it"
            );
            findings.push(Finding::new(text, Fix::Sql(ddl.assign_by_default(index))));
        }
        _ => {}
    }
    if ddl.is_set_null(index) && !found.nullable && !table.is_view {
        let text = format!(
            "{of}: the column `{column}` cannot be NULL, which `on_delete = set_null` has to set it to"
        );
        let sql = found.declares_not_null.then(|| ddl.drop_not_null(index));
        findings.push(Finding::new(text, Fix::alter(ddl, sql)));
    }
    if found.nullable && !is_key && !reads_null && !table.is_virtual(ddl.kind) {
        let text = format!("{of}: the column `{column}` can be NULL, and the field is no `Option`");
        let fill = ddl.fill(index).filter(|_| ddl.kind == DatabaseKind::Sqlite && !table.is_view);
        let replaced = fill.map(|fill| format!(" (the SQL replaces NULL by {fill})"));
        let text = text + &replaced.unwrap_or_default();
        let fix = Fix::alter(ddl, Some(ddl.set_not_null(index)));
        findings.push(Finding { text, fix, filled: Some(index) });
    }
    if spec.role == ColumnRole::GeneratedKey && table.is_virtual(ddl.kind) {
        let text = format!(
            "{of}: SQLite does not return the key of a new row of a virtual table, so the program has to assign `{column}`: make the \
             field no `Option`"
        );
        findings.push(Finding::new(text, Fix::None));
    } else if spec.role == ColumnRole::GeneratedKey && !found.optional && !table.is_view {
        findings.push(Finding::new(
            unassigned_key(of, found, ddl.kind),
            Fix::alter(ddl, ddl.assign_key(index)),
        ));
    }
    if spec.unique {
        findings.extend(missing_index(of, ddl, table, &[index], "`#[model(unique)]`"));
        // An `upsert` may use the column at any time. A `save` does not need ON CONFLICT for the key.
        findings.extend(no_arbiter(of, ddl, table, &[index]).filter(|_| !is_key));
    }
}

/// The findings about columns that the model does not write, and about indexes.
fn of_rest(of: &str, ddl: &Ddl, table: &Table, findings: &mut Vec<Finding>) {
    let (columns, model) = (ddl.model.columns, ddl.model.statements);
    let unwritten = |column: &&Column| {
        let index = columns.iter().position(|name| *name == column.name);
        let written = index.is_some_and(|index| model.columns[index].role != ColumnRole::Generated);
        !written && !column.nullable && !column.optional
    };
    for Column { name, declares_not_null, .. } in table.columns.iter().filter(unwritten) {
        let text =
            format!("{of}: the column `{name}` has no default, and the model never writes it");
        let quoted = identifier(name);
        let sql = || format!("ALTER TABLE {} ALTER COLUMN {quoted} DROP NOT NULL", model.table);
        findings.push(Finding::new(text, Fix::alter(ddl, declares_not_null.then(sql))));
    }
    let key: Vec<_> = model.group(ColumnGroup::Key).collect();
    if !table.is_external {
        findings.extend(missing_index(of, ddl, table, &key, "the key"));
    }
    for key in table.foreign_keys.iter().filter(|key| !key.is_valid) {
        let (columns, parent) = (key.columns.join("`, `"), &key.parent);
        let fault = match key.has_parent {
            true => "has no unique index of the columns that it refers to",
            false => "does not exist",
        };
        let text = format!(
            "{of}: the foreign key of `{columns}` refers to the table `{parent}`, which {fault}"
        );
        findings.push(Finding::new(text, Fix::None));
    }
    for spec in ddl.model.receivers.statement_cache().composed(ddl.kind) {
        if matches!(spec.kind, StatementKind::Save | StatementKind::InsertOrNothing) {
            let said = spec.by_key(model) && !table.is_external
                || matches!(spec.on[..], [column] if model.columns[column].unique);
            let finding = missing_index(of, ddl, table, &spec.on, UPSERT).filter(|_| !said);
            let finding = finding.or_else(|| no_arbiter(of, ddl, table, &spec.on));
            let is_new = |new: &Finding| findings.iter().all(|finding| finding.text != new.text);
            if let Some(finding) = finding.filter(is_new) {
                findings.push(finding);
            }
        }
    }
}

/// PostgreSQL: the advice instead of SQL that changes the type of a column.
const LOSES: &str =
    "; change the type of the field: a conversion of the column can lose a part of its values";

const UPSERT: &str = "`upsert` or `get_or_create`";

/// Which fields accept NULL: an `Option`, or a type that decodes NULL. The database is asked only if a column can be NULL and
/// its field is not an `Option`.
async fn nullable_fields(
    conn: &mut Conn<'_>,
    table: &Table,
    described: &ModelInfo,
    ask: Ask,
) -> Result<Vec<bool>> {
    let specs = described.statements.columns;
    let unclear = |(name, spec): (&&str, &ColumnSpec)| {
        !spec.optional && table.columns.iter().any(|c| c.nullable && c.name == **name)
    };
    let mut null = None;
    if described.columns.iter().zip(specs).any(unclear) {
        let select = Statement::fixed("SELECT NULL", Arguments::new(conn.kind()));
        null = conn.run_one(select).await?;
    }
    let reads_null = |index: usize| {
        specs[index].optional || null.as_ref().is_some_and(|row| ask(index, Asked::ReadsNull(row)))
    };
    Ok((0..specs.len()).map(reads_null).collect())
}

fn unassigned_key(of: &str, key: &Column, kind: DatabaseKind) -> String {
    let name = &key.name;
    let finding =
        format!("{of}: the database must assign the key `{name}`, but the column has no default");
    match kind {
        DatabaseKind::Postgres => finding,
        DatabaseKind::Sqlite => {
            format!("{finding}; write `{name} INTEGER PRIMARY KEY`, without WITHOUT ROWID")
        }
    }
}

fn missing_index(
    of: &str,
    ddl: &Ddl,
    table: &Table,
    columns: &[usize],
    asked: &str,
) -> Option<Finding> {
    if table.is_view {
        return None;
    }
    let (names, indexes) = indexes_of(ddl, table, columns);
    match &indexes[..] {
        // A virtual table has a key, but no `ON CONFLICT`.
        found if table.is_external && (found.is_empty() || asked == UPSERT) => Some(Finding::new(
            format!("{of}: it can have no unique index of `{names}`, for {asked}"),
            Fix::None,
        )),
        [] => Some(Finding::new(
            format!("{of}: there is no unique index of `{names}`, for {asked}"),
            Fix::Sql(ddl.create_index(columns)),
        )),
        indexes if indexes.iter().any(|index| index.valid) => None,
        [invalid, ..] => Some(Finding::new(
            format!(
                "{of}: the unique index of `{names}`, for {asked}, is invalid: drop it, or REINDEX it"
            ),
            Fix::Sql(ddl.reindex(&invalid.name)),
        )),
    }
}

/// The finding that `upsert` cannot use these columns, because a unique constraint on them is deferrable. ON CONFLICT considers
/// every unique index on the columns.
fn no_arbiter(of: &str, ddl: &Ddl, table: &Table, columns: &[usize]) -> Option<Finding> {
    let (names, indexes) = indexes_of(ddl, table, columns);
    let deferrable = indexes.iter().find(|index| index.valid && index.deferrable)?;
    let text = format!(
        "{of}: the unique constraint of `{names}` is DEFERRABLE, which {UPSERT} cannot use"
    );
    Some(Finding::new(text, Fix::Sql(ddl.replace_constraint(&deferrable.name, columns))))
}

/// The unique indexes on these columns, and the columns as messages name them.
fn indexes_of<'t>(ddl: &Ddl, table: &'t Table, columns: &[usize]) -> (String, Vec<&'t Index>) {
    let mut names: Vec<_> = columns.iter().map(|column| ddl.model.columns[*column]).collect();
    names.sort_unstable();
    let indexes = table.unique.iter().filter(|index| index.columns == names).collect();
    (names.join("`, `"), indexes)
}

impl Db {
    /// Checks at startup what would otherwise fail at a later save.
    ///
    /// The check verifies that:
    ///
    /// - this `Db` has a value for every [`State<T>`](crate::State) that a receiver takes
    /// - the `after` options of the receivers do not contradict each other
    /// - the table of every linked model matches the model, see [`check_table`](crate::Model::check_table)
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY)").await?;
    /// let error = db.check().await.unwrap_err();
    /// assert!(error.to_string().contains("there is no column `name`"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Check`] with all findings.
    ///
    /// # Cancel safety
    ///
    /// The check only reads. If the future is dropped, nothing has changed.
    pub async fn check(&self) -> Result<()> {
        let mut findings = registry().findings();
        for receiver in registry().identities() {
            let info = receiver.info;
            for asks in info.asks {
                if let Asks::State { id, name } = asks
                    && !self.state.has(*id)
                {
                    let (receiver, file, line) = (info.name, info.file, info.line);
                    let name = name();
                    findings.push(format!("receiver `{receiver}` ({file}:{line}) takes a `State<{name}>`, which this `Db` was not given"));
                }
            }
        }
        let mut conn = self.acquire().await?;
        findings.extend(every_model(&mut conn).await?);
        if let Some(store) = registry().event_store() {
            findings.extend(store.check(&mut conn).await?);
        }
        if findings.is_empty() { Ok(()) } else { Err(Error::Check { findings }) }
    }
}
