//! Saves and deletes of models, as thin generic functions over the writes of erased rows.

use crate::database::conn::Conn;
use crate::database::source::Source;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::model::read::OneRow;
use crate::model::rows::TypedRows;
use crate::model::store::Route;
use crate::table::column::{Column, ModelColumns};
use crate::transaction::guard::FailGuard;
use crate::write::continued_save::ATTEMPTS;
use crate::write::lookup::{conflicting, find_like};
use crate::write::save::{many, one};
use crate::write::{Saved, Stored, WriteKind, arbiter, delete as delete_rows};

/// The result of a save that stored the row, or fails.
pub(crate) fn saved<M: Model>(model: &M, stored: Option<Stored>) -> Saved<M::Pk> {
    let created = stored.is_some_and(|stored| stored.created);
    // A save without a key inserts the row, which gives it one, or fails.
    Saved { created, pk: model.pk().expect("a stored row has its key") }
}

/// Updates some columns of a row.
pub(crate) async fn save_columns<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
    fields: &[Column<M>],
) -> Result<Saved<Option<M::Pk>>> {
    if !fields.is_empty() {
        let kind = WriteKind::Fields(columns::<M>().settable(&mut names(fields))?.into());
        one(TypedRows::<M, R>::one(model).with_fields(fields).erased(), source, kind).await?;
    }
    Ok(Saved { created: false, pk: model.pk() })
}

/// Updates some columns of several rows.
pub(crate) async fn save_columns_of_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
    fields: &[Column<M>],
) -> Result<u64> {
    let kind = WriteKind::Fields(columns::<M>().settable(&mut names(fields))?.into());
    many(TypedRows::<M, R>::new(rows).with_fields(fields).erased(), source, kind).await
}

/// Updates the row that has the same values in these columns, or inserts this one.
pub(crate) async fn upsert<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
    unique: &[Column<M>],
) -> Result<Saved<M::Pk>> {
    let on = columns::<M>().unique_indexes(model.pk().is_some(), &mut names(unique))?;
    let stored = {
        let mut rows = TypedRows::<M, R>::one(model);
        one(rows.erased(), source, WriteKind::Upsert(on.into())).await?
    };
    Ok(saved(model, stored))
}

/// Returns the row that has the same values in these columns, or inserts this one.
pub(crate) async fn get_or_create<M: Model, R: Route<M>>(
    mut row: M,
    mut source: Source<'_>,
    unique: &[Column<M>],
) -> Result<(M, bool)> {
    let on = columns::<M>().unique_indexes(row.pk().is_some(), &mut names(unique))?;
    // If there are receivers, release the connection before the INSERT: a receiver may need a connection of the pool.
    let has_receivers = M::__table().save_if_any().is_some();
    // If another connection deletes the conflicting row between the INSERT and the next SELECT, the loop tries again.
    for attempt in 0..ATTEMPTS {
        let mut conn = source.reborrow().acquire().await?;
        let found = find_like(&mut conn, TypedRows::<M, R>::one(&mut row).erased(), &on).await?;
        if let Some(found) = found {
            return Ok((OneRow::<M, R>::loaded(&found, &mut conn).await?, false));
        }
        if attempt > 0 {
            // The INSERT has found a row. The unique index may compare values in another way than `=` does.
            let rows = TypedRows::<M, R>::one(&mut row);
            if let Some(found) = find_conflicting::<M, R>(&mut conn, rows, &on).await? {
                return Ok((found, false));
            }
        }
        let kind = WriteKind::GetOrCreate(on.clone().into());
        let source = if has_receivers {
            drop(conn);
            source.reborrow()
        } else {
            conn.into()
        };
        if one(TypedRows::<M, R>::one(&mut row).erased(), source, kind).await?.is_some() {
            return Ok((row, true));
        }
    }
    let not_stored = Err(Error::NotStored { model: M::NAME });
    match source {
        Source::Conn(mut conn) => FailGuard::of(&mut conn, "save", M::NAME).end(not_stored),
        Source::Db(_) => not_stored,
    }
}

/// The row that an INSERT would conflict with in these columns, if it still exists.
async fn find_conflicting<M: Model, R: Route<M>>(
    conn: &mut Conn<'_>,
    mut row: TypedRows<'_, M, R>,
    on: &[usize],
) -> Result<Option<M>> {
    let rows = row.erased();
    if !arbiter::is_arbiter(conn, rows, on).await? {
        return Ok(None);
    }
    let Some(conflicting) = conflicting(conn, rows, on).await? else { return Ok(None) };
    let Some(key) = R::load(&conflicting, 0)?.pk() else { return Ok(None) };
    let mut found = OneRow::<M, R>::default();
    found.by_key(conn.reborrow().into(), &key).await?;
    Ok(found.row)
}

/// Inserts or updates several rows.
pub(crate) async fn save_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
    kind: WriteKind,
) -> Result<u64> {
    many(TypedRows::<M, R>::new(rows).erased(), source, kind).await
}

/// Deletes one row, and returns whether it existed.
pub(crate) async fn delete<M: Model, R: Route<M>>(
    model: &mut M,
    source: Source<'_>,
) -> Result<bool> {
    if model.pk().is_none() {
        return Ok(false);
    }
    let written = delete_rows::one(TypedRows::<M, R>::one(model).erased(), source).await?;
    if written.kept.is_empty() {
        model.__set_pk(None);
    }
    Ok(written.len() > 0)
}

/// Deletes several rows, and returns how many existed. Rows without a key are skipped.
pub(crate) async fn delete_many<M: Model, R: Route<M>>(
    rows: &mut [M],
    source: Source<'_>,
) -> Result<u64> {
    let written = delete_rows::many(TypedRows::<M, R>::new(rows).erased(), source).await?;
    for (index, row) in rows.iter_mut().enumerate() {
        if written.kept.binary_search(&index).is_err() {
            row.__set_pk(None);
        }
    }
    Ok(written.len() as u64)
}

pub(crate) fn columns<M: Model>() -> ModelColumns {
    ModelColumns { model: M::NAME, names: M::COLUMNS, schema: M::STATEMENTS }
}

pub(crate) fn names<M: Model>(columns: &[Column<M>]) -> impl Iterator<Item = &'static str> {
    columns.iter().map(|column| column.name())
}
