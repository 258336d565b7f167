//! What becomes of the rows that belong to rows that are deleted.

use std::any::Any;
use std::marker::PhantomData;

use sqlx::error::BoxDynError;

use crate::any::AnyModel;
use crate::backend::{Arguments, DatabaseKind, Statement};
use crate::column::Column;
use crate::conn::Conn;
use crate::delete;
use crate::error::{Error, Result};
use crate::instances::Instances;
use crate::model::Model;
use crate::read::{self, Rows};
use crate::scope::RowId;
use crate::statements::Group;
use crate::store::Route;
use crate::write;

/// What becomes of a row when the one that it belongs to is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDelete {
    /// It is deleted first.
    Cascade,
    /// The other is not deleted.
    Restrict,
    /// It belongs to none from then on.
    SetNull,
}

/// A type that a column can have that is the key of another row: that of the key, or an `Option` of it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the key of the model that it belongs to",
    label = "expected `{Pk}` or `Option<{Pk}>`"
)]
pub trait KeyOf<Pk> {}

impl<Pk> KeyOf<Pk> for Pk {}
impl<Pk> KeyOf<Pk> for Option<Pk> {}

/// A check at compile time that a column can be the key of a row of `P`.
pub const fn is_key_of<P: Model, F: KeyOf<P::Pk>>() {}

/// How many parents a statement is about at most.
const ROWS: usize = 500;

/// Does to the rows of the model `M` that belong to `parents`, by the column at this place, what is to be done before those
/// are deleted.
pub(crate) async fn children<M: Model, R: Route<M>>(
    conn: &mut Conn<'_>,
    column: usize,
    on_delete: OnDelete,
    parents: &dyn Instances,
) -> Result<()> {
    let keyed: Vec<usize> = (0..parents.len()).filter(|row| parents.has_key(*row)).collect();
    for part in keyed.chunks(ROWS) {
        let of = Of::<M, R> { column, parents, part, child: PhantomData };
        match on_delete {
            OnDelete::Restrict => of.restrict(conn).await?,
            OnDelete::SetNull => of.set_null(conn).await?,
            OnDelete::Cascade => of.delete(conn).await?,
        }
    }
    Ok(())
}

/// The rows of `M` that belong to a part of the parents.
struct Of<'p, M, R> {
    column: usize,
    parents: &'p dyn Instances,
    part: &'p [usize],
    child: PhantomData<fn() -> (M, R)>,
}

impl<M: Model, R: Route<M>> Of<'_, M, R> {
    fn column(&self) -> &'static str {
        M::STATEMENTS.name(self.column)
    }

    async fn restrict(&self, conn: &mut Conn<'_>) -> Result<()> {
        let (model, column) = (M::STATEMENTS, self.column());
        let start = format!("SELECT 1 FROM {}", model.table);
        let mut found = false;
        let statement = self.statement(conn.kind(), &start, column, " LIMIT 1")?;
        conn.run(statement, &mut |_| found = true).await?;
        if !found {
            return Ok(());
        }
        let row = self.part[0];
        let key =
            if self.part.len() == 1 { self.parents.key(row) } else { "one of them".to_owned() };
        Err(Error::Restricted { model: self.parents.model(), key, by: M::NAME })
    }

    async fn set_null(&self, conn: &mut Conn<'_>) -> Result<()> {
        let (model, column) = (M::STATEMENTS, self.column());
        if M::__table().heard_save().is_none() && !model.has_times() {
            let version =
                model.group(Group::Version).map(|c| format!(", {0} = {0} + 1", model.name(c)));
            let set = format!("{column} = NULL{}", version.collect::<String>());
            let update = format!("UPDATE {} SET {set}", model.table);
            conn.run(self.statement(conn.kind(), &update, column, "")?, &mut |_| ()).await?;
            return Ok(());
        }
        // As it is to be: what belongs to none.
        let columns = model.columns.iter().enumerate();
        let columns = columns.map(|(i, c)| if i == self.column { "NULL" } else { c.name });
        let mut rows = self.select(conn, &columns.collect::<Vec<_>>().join(", ")).await?;
        let fields = [Column::new(M::COLUMNS[self.column])];
        write::save_columns_of_many::<M, R>(&mut rows, conn.reborrow().into(), &fields).await?;
        Ok(())
    }

    async fn delete(&self, conn: &mut Conn<'_>) -> Result<()> {
        let model = M::STATEMENTS;
        if M::__table().heard_delete().is_none() {
            let delete = format!("DELETE FROM {}", model.table);
            conn.run(self.statement(conn.kind(), &delete, self.column(), "")?, &mut |_| ()).await?;
            return Ok(());
        }
        let columns: Vec<_> = model.columns.iter().map(|c| c.name).collect();
        let mut rows = self.select(conn, &columns.join(", ")).await?;
        // Rows that belong to each other in a circle are under way already.
        if let Some(deleting) = conn.scope.deleting() {
            rows.retain(|row| !deleting.contains(&entry(row)));
        }
        delete::delete_many::<M, R>(&mut rows, conn.reborrow().into()).await?;
        Ok(())
    }

    async fn select(&self, conn: &mut Conn<'_>, columns: &str) -> Result<Vec<M>> {
        let model = M::STATEMENTS;
        let keys: Vec<_> = model.group(Group::Key).map(|c| model.name(c)).collect();
        let lock = if conn.kind() == DatabaseKind::Postgres { " FOR UPDATE" } else { "" };
        let end = format!(" ORDER BY {}{lock}", keys.join(", "));
        let start = format!("SELECT {columns} FROM {}", model.table);
        let mut rows = Rows::<M, R>::default();
        let statement = self.statement(conn.kind(), &start, self.column(), &end)?;
        read::take(conn, statement, &mut rows).await?;
        Ok(rows.rows)
    }

    /// A statement about the rows whose column is the key of one of the parents.
    fn statement(
        &self,
        kind: DatabaseKind,
        start: &str,
        column: &str,
        end: &str,
    ) -> Result<Statement, sqlx::Error> {
        let mut args = Arguments::new(kind);
        bind_keys(self.parents, self.part, &mut args).map_err(sqlx::Error::Encode)?;
        let places: Vec<_> = (1..=self.part.len()).map(|n| format!("${n}")).collect();
        let sql = format!("{start} WHERE {column} IN ({}){end}", places.join(", "));
        let persistent = self.part.len() == 1;
        Ok(Statement { persistent, ..Statement::once(sql, args) })
    }
}

fn bind_keys(
    parents: &dyn Instances,
    rows: &[usize],
    args: &mut Arguments,
) -> Result<(), BoxDynError> {
    let key = parents.statements().group(Group::Key).next().unwrap_or_default();
    rows.iter().try_for_each(|row| parents.bind(*row, key, args))
}

/// A row that is being deleted, as the transaction knows it.
pub(crate) fn entry(row: &dyn AnyModel) -> RowId {
    let any: &dyn Any = row;
    (any.type_id(), row.key())
}
