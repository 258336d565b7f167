//! The rows that a statement is about, without the type of their model: what builds and runs statements is written,
//! and compiled, once.

use std::any::TypeId;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use sqlx::error::BoxDynError;

use crate::database::backend::Bindable;
use crate::database::backend::{AnyRow, AnyTake, AnyType, Arguments, Backend as _, DatabaseKind};
use crate::table::any::AnyModel;
use crate::table::cache::StatementCache;
use crate::table::column::Column;
use crate::table::previous_row::{PreviousRow, SharedPreviousRow};
use crate::table::schema::{ColumnGroup, Schema};

/// Rows by their numbers, in the order in which they are written.
#[allow(unreachable_pub)]
pub trait Rows: Send + Sync {
    fn model(&self) -> &'static str;
    fn id(&self) -> TypeId;
    fn schema(&self) -> &'static Schema;
    /// The statements that were composed for the model so far.
    fn statement_cache(&self) -> &'static StatementCache;
    fn len(&self) -> usize;
    fn has_key(&self, row: usize) -> bool;

    /// Takes the key that the database gives from a row.
    fn clear_key(&mut self, row: usize);

    /// The place of a row in the slice that the program gave.
    fn slice_index(&self, row: usize) -> usize;

    /// Writes the rows in this order from now on; in their own where it is empty.
    fn set_order(&mut self, order: Vec<usize>);

    /// The row at a place in the slice.
    fn at(&self, place: usize) -> &dyn AnyModel;

    fn at_mut(&mut self, place: usize) -> &mut dyn AnyModel;

    /// The columns that receivers of every model are told of.
    fn any_fields(&self) -> Option<&[Column<dyn AnyModel>]>;

    /// The row at a place in the slice, and those columns.
    fn at_mut_with_fields(
        &mut self,
        place: usize,
    ) -> (&mut dyn AnyModel, Option<&[Column<dyn AnyModel>]>);

    /// The key of a row, as errors print it.
    fn key(&self, row: usize) -> String;

    /// The name of the type that a column has in this database.
    fn type_name(&self, column: usize, kind: DatabaseKind) -> String;

    /// Gives the value of a column.
    fn give(&self, row: usize, column: usize, take: AnyTake<'_>) -> Result<(), BoxDynError>;

    /// Takes a column as the database has it now.
    fn set(
        &mut self,
        row: usize,
        column: usize,
        from: &AnyRow,
        at: usize,
    ) -> Result<(), sqlx::Error>;

    fn version(&self, row: usize) -> Option<i64>;

    /// Counts the version of a row on.
    fn advance(&mut self, row: usize);

    /// Sets the columns that are set at every write, and where they are `added`, those that are set then.
    fn stamp(&mut self, now: SystemTime, added: bool);

    /// Whether a column can be read where the database has it as this type.
    fn fits(&self, column: usize, ty: &AnyType) -> bool;

    /// Whether a column can be read from every value of this type.
    fn fits_all(&self, column: usize, ty: &AnyType) -> bool;

    /// Whether a column can be read from every rowid of SQLite.
    fn fits_rowid(&self, column: usize) -> bool;

    /// Whether a column has another value in one row of the database than in the other, at this place in both. Values that are
    /// stored in different ways can be the same one to the field.
    fn differs(
        &self,
        column: usize,
        row: &AnyRow,
        other: &AnyRow,
        at: usize,
    ) -> Result<bool, sqlx::Error>;

    /// A row of the model, from a place in a row of the database.
    fn load(&self, from: &AnyRow, at: usize) -> Result<Box<dyn AnyModel>, sqlx::Error>;

    /// What the rows were before, where that is asked for.
    fn previous_rows(&mut self) -> &mut Vec<PreviousRow>;

    /// Takes note of what a write can change in the rows.
    fn keep(&mut self);

    /// Brings the rows back to what was noted last, and forgets that. If nothing was noted, they stay as they are.
    fn restore(&mut self);

    /// Adds a row, from a place in a row of the database. Only to rows that are the library's own.
    fn push(&mut self, from: &AnyRow, at: usize) -> Result<(), sqlx::Error>;

    /// Keeps the first rows only. Only of rows that are the library's own.
    fn truncate(&mut self, rows: usize);

    /// Brings the rows into this order, which names each of them once. Only rows that are the library's own.
    fn reorder(&mut self, order: &[usize]);
}

impl dyn Rows + '_ {
    pub(crate) fn bind(
        &self,
        row: usize,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        match args {
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(args) => {
                self.give(row, column, AnyTake::Sqlite(&mut |value| value.bind(args)))
            }
            #[cfg(feature = "postgres")]
            Arguments::Postgres(args) => {
                self.give(row, column, AnyTake::Postgres(&mut |value| value.bind(args)))
            }
        }
    }

    /// Binds a column that a row is found by.
    pub(crate) fn bind_compared(
        &self,
        row: usize,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        match args {
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(_) => self.bind(row, column, args),
            #[cfg(feature = "postgres")]
            Arguments::Postgres(args) => {
                self.give(row, column, AnyTake::Postgres(&mut |value| value.bind_compared(args)))
            }
        }
    }

    /// Binds a column of several rows as one array.
    pub(crate) fn bind_each(
        &self,
        rows: Range<usize>,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        self.bind_array(rows.len(), &|n| rows.start + n, column, args)
    }

    /// As [`bind_each`](Self::bind_each), of any rows.
    pub(crate) fn bind_array(
        &self,
        count: usize,
        row: &dyn Fn(usize) -> usize,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        match args {
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(args) => sqlx::Sqlite::bind_each(args, count, &|n, take| {
                self.give(row(n), column, AnyTake::Sqlite(take))
            }),
            #[cfg(feature = "postgres")]
            Arguments::Postgres(args) => sqlx::Postgres::bind_each(args, count, &|n, take| {
                self.give(row(n), column, AnyTake::Postgres(take))
            }),
        }
    }

    /// Whether a column, of a type as this row has it, can be an array.
    pub(crate) fn fits_array(&self, row: usize, column: usize, kind: DatabaseKind) -> bool {
        self.given_type(row, column, kind).is_some_and(|ty| match &ty {
            #[cfg(feature = "sqlite")]
            AnyType::Sqlite(ty) => sqlx::Sqlite::fits_array(ty),
            #[cfg(feature = "postgres")]
            AnyType::Postgres(ty) => sqlx::Postgres::fits_array(ty),
        })
    }

    /// Whether the database is given this column of the row as text, which it may compare in another way than the column's type
    /// does.
    pub(crate) fn is_text(&self, row: usize, column: usize, kind: DatabaseKind) -> bool {
        self.given_type(row, column, kind).is_some_and(|ty| match &ty {
            #[cfg(feature = "sqlite")]
            AnyType::Sqlite(ty) => sqlx::Sqlite::is_text(ty),
            #[cfg(feature = "postgres")]
            AnyType::Postgres(ty) => sqlx::Postgres::is_text(ty),
        })
    }

    /// The type as which the database is given a column of a row.
    fn given_type(&self, row: usize, column: usize, kind: DatabaseKind) -> Option<AnyType> {
        let mut ty = None;
        let given = match kind {
            #[cfg(feature = "sqlite")]
            DatabaseKind::Sqlite => {
                let take = &mut |value: &dyn Bindable<sqlx::Sqlite>| {
                    ty = Some(AnyType::Sqlite(value.type_info()));
                    Ok(())
                };
                self.give(row, column, AnyTake::Sqlite(take))
            }
            #[cfg(feature = "postgres")]
            DatabaseKind::Postgres => {
                let take = &mut |value: &dyn Bindable<sqlx::Postgres>| {
                    ty = Some(AnyType::Postgres(value.type_info()));
                    Ok(())
                };
                self.give(row, column, AnyTake::Postgres(take))
            }
            #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
            _ => Ok(()),
        };
        given.ok().and(ty)
    }

    /// What the database is given for these columns of a row, so that two rows can be told from each other: neither `Debug` nor
    /// `PartialEq` of the program's own types can be relied on for that. Of two types that are encoded the same, as `T` and
    /// `Option<T>` are, the same values are the same.
    pub(crate) fn encoded(
        &self,
        row: usize,
        columns: impl IntoIterator<Item = usize>,
        kind: DatabaseKind,
    ) -> Result<Box<[u8]>, sqlx::Error> {
        let mut all = Vec::new();
        for column in columns {
            let given = match kind {
                #[cfg(feature = "sqlite")]
                DatabaseKind::Sqlite => self.give(
                    row,
                    column,
                    AnyTake::Sqlite(&mut |value| sqlx::Sqlite::encoded(value, &mut all)),
                ),
                #[cfg(feature = "postgres")]
                DatabaseKind::Postgres => self.give(
                    row,
                    column,
                    AnyTake::Postgres(&mut |value| sqlx::Postgres::encoded(value, &mut all)),
                ),
                #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
                _ => Ok(()),
            };
            given.map_err(sqlx::Error::Encode)?;
        }
        Ok(all.into())
    }

    /// The key of a row as the database is given it.
    pub(crate) fn encoded_key(
        &self,
        row: usize,
        kind: DatabaseKind,
    ) -> Result<Box<[u8]>, sqlx::Error> {
        self.encoded(row, self.schema().group(ColumnGroup::Key), kind)
    }

    /// What a row was before.
    pub(crate) fn previous_of(&mut self, row: usize) -> &mut PreviousRow {
        let (rows, place) = (self.len(), self.slice_index(row));
        let before = self.previous_rows();
        before.resize_with(rows, PreviousRow::default);
        &mut before[place]
    }

    /// Hands out what each row was before.
    pub(crate) fn take_previous(&mut self) -> Vec<SharedPreviousRow> {
        let rows = self.len();
        let mut before = std::mem::take(self.previous_rows());
        before.resize_with(rows, PreviousRow::default);
        before.into_iter().map(|before| Some(Arc::new(before))).collect()
    }
}
