//! The `CREATE TABLE` of a model, and the statements that make an existing table match it.

use std::cell::Cell;

use crate::database::backend::DatabaseKind;
use crate::signal::relation::{self, Ask, ModelInfo, OnDelete, RegisteredModel, Relation};
use crate::table::field::Asked;
use crate::table::schema::{ColumnGroup, ColumnRole, ColumnSpec};

/// A model as a table of one database.
pub(crate) struct Ddl {
    pub(crate) kind: DatabaseKind,
    pub(crate) model: ModelInfo,
    registered: Option<&'static RegisteredModel>,
    ask: Option<Ask>,
}

impl Ddl {
    pub(crate) fn new(kind: DatabaseKind, model: ModelInfo) -> Self {
        let registered = relation::registered(model.id);
        let ask = registered.and_then(|model| model.stored_in(kind)).map(|(_, ask)| ask);
        Self { kind, model, registered, ask }
    }

    pub(crate) fn spec(&self, column: usize) -> ColumnSpec {
        self.model.statements.columns[column]
    }

    pub(crate) fn keys(&self) -> Vec<usize> {
        self.model.statements.group(ColumnGroup::Key).collect()
    }

    /// The names of columns in SQL, separated by commas.
    pub(crate) fn names(&self, columns: &[usize]) -> String {
        let names: Vec<_> = columns.iter().map(|column| self.spec(*column).name).collect();
        names.join(", ")
    }

    /// The type of a column in SQL. `None` if the database has no type for the field.
    pub(crate) fn ty(&self, column: usize) -> Option<String> {
        let name = Cell::new(String::new());
        if !self.ask?(column, Asked::Name(self.kind, &name)) {
            return None;
        }
        let name = name.take();
        if self.kind == DatabaseKind::Sqlite {
            return Some(name);
        }
        let (element, array) = name.strip_suffix("[]").map_or((&*name, ""), |name| (name, "[]"));
        let element = match element {
            "INT8" => "BIGINT",
            "INT4" => "INTEGER",
            "INT2" => "SMALLINT",
            "BOOL" => "BOOLEAN",
            "FLOAT8" => "DOUBLE PRECISION",
            "FLOAT4" => "REAL",
            other => other,
        };
        Some(format!("{element}{array}"))
    }

    pub(crate) fn create_table(&self) -> String {
        let columns = 0..self.model.columns.len();
        let definitions = columns
            .map(|column| self.definition(column, None, !self.spec(column).optional, true))
            .collect();
        self.create(self.model.statements.table, definitions, Vec::new())
    }

    /// A CREATE TABLE with these definitions of columns, the key of the model, and further constraints.
    pub(crate) fn create(
        &self,
        table: &str,
        definitions: Vec<String>,
        constraints: Vec<String>,
    ) -> String {
        let mut lines = definitions;
        if let keys @ [_, _, ..] = &self.keys()[..] {
            lines.push(format!("PRIMARY KEY ({})", self.names(keys)));
        }
        lines.extend(constraints);
        format!("CREATE TABLE {table} (\n    {}\n)", lines.join(",\n    "))
    }

    /// A column of a CREATE TABLE. `default`: an expression that takes the place of the default, unless the column is a key.
    /// `not_null`: whether the column cannot be NULL, unless the database assigns it. `refers`: whether the foreign key of the column is
    /// part of its definition.
    pub(crate) fn definition(
        &self,
        column: usize,
        default: Option<&str>,
        not_null: bool,
        refers: bool,
    ) -> String {
        let spec = self.spec(column);
        let ty = self.ty(column);
        let mut sql = format!("{} {}", spec.name, ty.as_deref().unwrap_or(NO_TYPE));
        let ty = ty.unwrap_or_default();
        let is_key = spec.role.group() == ColumnGroup::Key && self.keys().len() == 1;
        if spec.role == ColumnRole::GeneratedKey {
            sql += &self.assigned(&ty);
            // SQLite allows NULL in a key that is not the rowid.
            sql +=
                if self.kind == DatabaseKind::Sqlite && ty != "INTEGER" { " NOT NULL" } else { "" };
        } else if not_null {
            sql += " NOT NULL";
        }
        if is_key {
            sql += " PRIMARY KEY";
        } else if spec.unique {
            sql += " UNIQUE";
        }
        let default = default.filter(|_| spec.role.group() != ColumnGroup::Key);
        if let Some(default) = default {
            sql += &format!(" DEFAULT ({default})");
        }
        if spec.role == ColumnRole::Generated {
            let fill = self.fill(column).filter(|_| !spec.optional && default.is_none());
            if let Some(fill) = fill {
                sql += &format!(" DEFAULT {fill}");
            }
            sql += " /* replace this by what computes the column */";
        }
        if refers { sql + &self.references(column) } else { sql }
    }

    /// How the database assigns the key.
    fn assigned(&self, ty: &str) -> String {
        match (self.kind, ty) {
            (DatabaseKind::Postgres, "BIGINT" | "INTEGER" | "SMALLINT") => {
                " GENERATED BY DEFAULT AS IDENTITY".to_owned()
            }
            (DatabaseKind::Sqlite, "INTEGER") => String::new(),
            (_, ty) => self.assigned_default(ty).map_or_else(
                || " /* add a DEFAULT that assigns the key */".to_owned(),
                |default| format!(" DEFAULT {default}"),
            ),
        }
    }

    /// The default of a key that the database assigns, if it is not an integer.
    fn assigned_default(&self, ty: &str) -> Option<&'static str> {
        match (self.kind, ty) {
            (DatabaseKind::Postgres, "UUID") => Some("gen_random_uuid()"),
            (DatabaseKind::Postgres, "TEXT" | "VARCHAR") => Some("gen_random_uuid()::text"),
            (DatabaseKind::Sqlite, "BLOB") => Some("(randomblob(16))"),
            (DatabaseKind::Sqlite, "TEXT") => Some("(lower(hex(randomblob(16))))"),
            _ => None,
        }
    }

    /// What `belongs_to` says about a column.
    fn relation(&self, column: usize) -> Option<&'static Relation> {
        let relations = self.registered.map_or(&[][..], |model| model.relations);
        relations.iter().find(|relation| relation.column == column)
    }

    /// Whether a delete of a parent has to set the column to NULL.
    pub(crate) fn is_set_null(&self, column: usize) -> bool {
        self.relation(column).is_some_and(|relation| relation.on_delete == OnDelete::SetNull)
    }

    /// The foreign key of a column with `belongs_to`.
    fn references(&self, column: usize) -> String {
        let of = self.relation(column);
        let Some(parent) = of.and_then(|of| relation::registered((of.parent)())) else {
            return String::new();
        };
        let parent = Self::new(self.kind, (parent.model)());
        let (own, of_parent) = (self.model.statements, parent.model.statements);
        let database = |schema: Option<&str>| schema.map(str::to_ascii_lowercase);
        let same_database = database(own.schema()) == database(of_parent.schema());
        let table = match self.kind {
            DatabaseKind::Postgres => of_parent.table,
            // A foreign key of SQLite refers to a table of its own database, and does not name it.
            DatabaseKind::Sqlite if same_database => of_parent.short_table(),
            DatabaseKind::Sqlite => return String::new(),
        };
        format!(" REFERENCES {table} ({})", parent.names(&parent.keys()))
    }

    /// A value that fills a column which cannot be NULL in existing rows.
    pub(crate) fn fill(&self, column: usize) -> Option<&'static str> {
        let ty = self.ty(column)?;
        if ty.ends_with("[]") {
            return Some("'{}'");
        }
        Some(match (self.kind, &*ty) {
            (_, "BIGINT" | "INTEGER" | "SMALLINT" | "REAL" | "DOUBLE PRECISION" | "NUMERIC") => "0",
            (_, "BOOLEAN") => "false",
            (_, "JSON" | "JSONB") => "'null'",
            (DatabaseKind::Sqlite, "TEXT") if self.spec(column).json => "'null'",
            (_, "TEXT" | "VARCHAR" | "CITEXT" | "CHAR" | "NAME") => "''",
            (DatabaseKind::Postgres, "BYTEA") => "''",
            (DatabaseKind::Postgres, "TIMESTAMPTZ" | "TIMESTAMP") => "CURRENT_TIMESTAMP",
            (DatabaseKind::Postgres, "DATE") => "CURRENT_DATE",
            (DatabaseKind::Postgres, "TIME") => "LOCALTIME",
            (DatabaseKind::Postgres, "UUID") => "gen_random_uuid()",
            (DatabaseKind::Postgres, "INTERVAL") => "'0'",
            (DatabaseKind::Postgres, "INET" | "CIDR") => "'0.0.0.0'",
            // ADD COLUMN accepts only constants.
            (DatabaseKind::Sqlite, "BLOB") => "x''",
            (DatabaseKind::Sqlite, "DATETIME") => "'1970-01-01 00:00:00'",
            (DatabaseKind::Sqlite, "DATE") => "'1970-01-01'",
            (DatabaseKind::Sqlite, "TIME") => "'00:00:00'",
            _ => return None,
        })
    }

    fn alter(&self, column: usize, change: &str) -> String {
        let (table, name) = (self.model.statements.table, self.spec(column).name);
        format!("ALTER TABLE {table} ALTER COLUMN {name} {change}")
    }

    /// Adds a column. `None` if SQLite cannot add it.
    pub(crate) fn add_column(&self, column: usize) -> Option<String> {
        let (spec, table) = (self.spec(column), self.model.statements.table);
        let is_key = spec.role.group() == ColumnGroup::Key;
        if is_key && self.kind == DatabaseKind::Sqlite {
            return None;
        }
        let ty = self.ty(column)?;
        let mut sql = format!("ALTER TABLE {table} ADD COLUMN {} {ty}", spec.name);
        let references = self.references(column);
        match (spec.optional, self.kind) {
            _ if spec.role == ColumnRole::GeneratedKey => sql += &self.assigned(&ty),
            (true, _) => sql += &references,
            (false, DatabaseKind::Postgres) if !references.is_empty() => {
                sql += &format!(" NOT NULL{references}");
            }
            // SQLite cannot add a column with a default and a foreign key.
            (false, _) => sql += &format!(" NOT NULL DEFAULT {}", self.fill(column)?),
        }
        Some(sql)
    }

    /// PostgreSQL: changes the type of a column to that of the field. `None` if that can lose a part of a value.
    pub(crate) fn change_type(&self, column: usize, from: &str) -> Option<String> {
        let (ty, name) = (self.ty(column)?, self.spec(column).name);
        let value = match (from, &*ty) {
            // Independent of the time zone of the session.
            ("TIMESTAMP", "TIMESTAMPTZ") | ("TIMESTAMPTZ", "TIMESTAMP") => {
                format!("{name} AT TIME ZONE 'UTC'")
            }
            _ if keeps_values(from, &ty) => format!("{name}::{ty}"),
            _ => return None,
        };
        Some(self.alter(column, &format!("TYPE {ty} USING {value}")))
    }

    /// PostgreSQL: forbids NULL.
    pub(crate) fn set_not_null(&self, column: usize) -> String {
        self.alter(column, "SET NOT NULL")
    }

    /// PostgreSQL: allows NULL.
    pub(crate) fn drop_not_null(&self, column: usize) -> String {
        self.alter(column, "DROP NOT NULL")
    }

    /// PostgreSQL: lets a statement choose the value of an identity column.
    pub(crate) fn assign_by_default(&self, column: usize) -> String {
        self.alter(column, "SET GENERATED BY DEFAULT")
    }

    /// PostgreSQL: lets the database assign the key.
    pub(crate) fn assign_key(&self, column: usize) -> Option<String> {
        let ty = self.ty(column)?;
        if let Some(default) = self.assigned_default(&ty) {
            return Some(self.alter(column, &format!("SET DEFAULT {default}")));
        }
        if !["BIGINT", "INTEGER", "SMALLINT"].contains(&&*ty) {
            return None;
        }
        let (table, name) = (self.model.statements.table, self.spec(column).name);
        let literal = |text: &str| text.replace('\'', "''");
        Some(format!(
            "{}, ALTER COLUMN {name} ADD GENERATED BY DEFAULT AS IDENTITY; SELECT setval(pg_get_serial_sequence('{}', '{}'), (SELECT \
             coalesce(max({name}), 0) + 1 FROM {table}), false)",
            self.set_not_null(column),
            literal(table),
            literal(self.model.columns[column]),
        ))
    }

    /// Creates a unique index of columns.
    pub(crate) fn create_index(&self, columns: &[usize]) -> String {
        let (table, names) = (self.model.statements.table, self.names(columns));
        if self.kind == DatabaseKind::Postgres {
            return format!("CREATE UNIQUE INDEX ON {table} ({names})");
        }
        let of: Vec<_> = columns.iter().map(|column| self.model.columns[*column]).collect();
        let index = format!("{}_{}_unique", self.model.table.replace('.', "_"), of.join("_"));
        let index = identifier(&index);
        match table.split_once("\".\"") {
            Some((schema, table)) => {
                format!("CREATE UNIQUE INDEX {schema}\".{index} ON \"{table} ({names})")
            }
            None => format!("CREATE UNIQUE INDEX {index} ON {table} ({names})"),
        }
    }

    /// PostgreSQL: builds an index again.
    pub(crate) fn reindex(&self, index: &str) -> String {
        match self.model.statements.table.split_once("\".\"") {
            Some((schema, _)) => format!("REINDEX INDEX {schema}\".{index}"),
            None => format!("REINDEX INDEX {index}"),
        }
    }

    /// PostgreSQL: replaces a deferrable constraint.
    pub(crate) fn replace_constraint(&self, constraint: &str, columns: &[usize]) -> String {
        let (table, names) = (self.model.statements.table, self.names(columns));
        let new = if columns == self.keys() { "PRIMARY KEY" } else { "UNIQUE" };
        format!("ALTER TABLE {table} DROP CONSTRAINT {constraint}, ADD {new} ({names})")
    }
}

/// Whether PostgreSQL converts each value to the other type completely, or refuses to.
fn keeps_values(from: &str, to: &str) -> bool {
    let is_text = |ty: &str| matches!(ty, "TEXT" | "VARCHAR");
    match from {
        _ if is_text(to) => true,
        "INT2" | "INT4" if to == "DOUBLE PRECISION" => true,
        "INT2" if to == "REAL" => true,
        "INT2" | "INT4" | "INT8" => matches!(to, "SMALLINT" | "INTEGER" | "BIGINT" | "NUMERIC"),
        "FLOAT4" => to == "DOUBLE PRECISION",
        "DATE" => to == "TIMESTAMP",
        _ if is_text(from) => {
            matches!(
                to,
                "SMALLINT" | "INTEGER" | "BIGINT" | "NUMERIC" | "BOOLEAN" | "UUID" | "JSON"
            )
        }
        _ => false,
    }
}

/// Takes the place of the type of a column that the database cannot store.
const NO_TYPE: &str = "/* this database has no type for the field */";

/// An identifier in SQL.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// SQL without line breaks.
pub(crate) fn one_line(sql: &str) -> String {
    sql.split('\n').map(str::trim).collect::<Vec<_>>().join(" ")
}
