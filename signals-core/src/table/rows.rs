//! Rows without the type of their model, so that the code that builds and runs statements is not generic and is compiled once.
//!
//! A row has two numbers: methods with the parameter `row` count the rows in the order of writing; methods with the parameter
//! `index` count them in the caller's slice.

use std::any::{Any, TypeId};
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use sqlx::error::BoxDynError;

use crate::database::backend::{
    AnyRow, AnyTake, AnyType, Arguments, Backend as _, DatabaseKind, on, on_kind,
};
use crate::table::any::{AnyModel, AnyRows};
use crate::table::cache::StatementCache;
use crate::table::previous_row::{PreviousRow, SharedPreviousRow};
use crate::table::schema::{ColumnGroup, Schema};

/// Rows of one model, in the order in which they are written.
#[allow(unreachable_pub)]
pub trait Rows: AnyRows {
    fn model(&self) -> &'static str;
    fn id(&self) -> TypeId;
    fn schema(&self) -> &'static Schema;

    /// The unquoted name of the table.
    fn table(&self) -> &'static str;

    /// The unquoted names of the columns.
    fn columns(&self) -> &'static [&'static str];

    /// The composed statements of the model.
    fn statement_cache(&self) -> &'static StatementCache;
    fn len(&self) -> usize;
    fn has_key(&self, row: usize) -> bool;

    /// Sets the key of a row to `None` if the database assigns it.
    fn clear_key(&mut self, row: usize);

    /// The index of a row in the caller's slice.
    fn slice_index(&self, row: usize) -> usize;

    /// Sets the order of writing, as indexes into the slice. An empty `order` is the order of the slice.
    fn set_order(&mut self, order: Vec<usize>);

    /// The key of a row, as errors print it.
    fn key(&self, row: usize) -> String;

    /// The key of a row, if it is an integer.
    fn integer_key(&self, row: usize) -> Option<i64>;

    /// The name of a column's type in this database.
    fn type_name(&self, column: usize, kind: DatabaseKind) -> String;

    /// Passes the value of a column to `take`.
    fn give(&self, row: usize, column: usize, take: AnyTake<'_>) -> Result<(), BoxDynError>;

    /// As [`give`](Self::give), for another row of the model.
    fn give_of(
        &self,
        row: &dyn AnyModel,
        column: usize,
        take: AnyTake<'_>,
    ) -> Result<(), BoxDynError>;

    /// Sets the field of a column from the column `at` of a row of the database.
    fn set(
        &mut self,
        row: usize,
        column: usize,
        from: &AnyRow,
        at: usize,
    ) -> Result<(), sqlx::Error>;

    fn version(&self, row: usize) -> Option<i64>;

    /// Increments the version of a row.
    fn advance(&mut self, row: usize);

    /// Sets the `auto_now` columns to `now`, and the `auto_now_add` columns too if the rows are `added`.
    fn stamp(&mut self, now: SystemTime, added: bool);

    /// Whether the field of a column can be decoded from a value of this type.
    fn fits(&self, column: usize, ty: &AnyType) -> bool;

    /// Whether the field of a column can be decoded from every value of this type.
    fn fits_all(&self, column: usize, ty: &AnyType) -> bool;

    /// Whether the field of a column can be decoded from every rowid of SQLite.
    fn fits_rowid(&self, column: usize) -> bool;

    /// Whether a column has different values in two rows of the database, which both have it at `at`. Values with different
    /// stored forms can be equal as fields.
    fn differs(
        &self,
        column: usize,
        row: &AnyRow,
        other: &AnyRow,
        at: usize,
    ) -> Result<bool, sqlx::Error>;

    /// Decodes a row of the model, starting at the column `at` of a row of the database.
    fn load(&self, from: &AnyRow, at: usize) -> Result<Arc<dyn AnyModel>, sqlx::Error>;

    /// The rows before the write, if receivers ask for them.
    fn previous_rows(&mut self) -> &mut Vec<PreviousRow>;

    /// Saves the fields that a write can change.
    fn keep(&mut self);

    /// Restores the fields that the last `keep` saved, and forgets them. Without saved fields this is a no-op.
    fn restore(&mut self);

    /// Decodes a row of the database and adds it. Only for rows of the library.
    fn push(&mut self, from: &AnyRow, at: usize) -> Result<(), sqlx::Error>;

    /// Keeps only the first rows. Only for rows of the library.
    fn truncate(&mut self, rows: usize);

    /// Reorders the rows. `order` contains the number of each row once. Only for rows of the library.
    fn reorder(&mut self, order: &[usize]);
}

impl dyn Rows + '_ {
    pub(crate) fn bind(
        &self,
        row: usize,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        on!(Arguments, args, DB, args => {
            self.give(row, column, DB::any_take(&mut |value| value.bind(args)))
        })
    }

    /// Binds a column by which a row is found.
    pub(crate) fn bind_compared(
        &self,
        row: usize,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        on!(Arguments, args, DB, args => {
            self.give(row, column, DB::any_take(&mut |value| value.bind_compared(args)))
        })
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

    /// As [`bind_each`](Self::bind_each), for `count` rows that need not be consecutive.
    pub(crate) fn bind_array(
        &self,
        count: usize,
        row: &dyn Fn(usize) -> usize,
        column: usize,
        args: &mut Arguments,
    ) -> Result<(), BoxDynError> {
        on!(Arguments, args, DB, args => {
            DB::bind_each(args, count, &|n, take| self.give(row(n), column, DB::any_take(take)))
        })
    }

    /// Whether the values of a column can be bound as an array, to judge by its type in this row.
    pub(crate) fn fits_array(&self, row: usize, column: usize, kind: DatabaseKind) -> bool {
        let ty = self.given_type(row, column, kind);
        ty.is_some_and(|ty| on!(AnyType, &ty, DB, ty => DB::fits_array(ty)))
    }

    /// Whether a column of this row is bound as text, which the database may compare in another way than the column's type
    /// does.
    pub(crate) fn is_text(&self, row: usize, column: usize, kind: DatabaseKind) -> bool {
        let ty = self.given_type(row, column, kind);
        ty.is_some_and(|ty| on!(AnyType, &ty, DB, ty => DB::is_text(ty)))
    }

    /// The type as which a column of a row is bound.
    fn given_type(&self, row: usize, column: usize, kind: DatabaseKind) -> Option<AnyType> {
        let mut ty = None;
        let given = on_kind!(kind, DB => {
            self.give(row, column, DB::any_take(&mut |value| {
                ty = Some(DB::any_type(value.type_info()));
                Ok(())
            }))
        });
        given.ok().and(ty)
    }

    /// The encoded values of these columns of a row, to find equal rows: a program's types need not implement `PartialEq`, and
    /// their `Debug` text may be the same for different values. Types with the same encoding, such as `T` and `Option<T>`,
    /// have equal encoded values.
    pub(crate) fn encoded(
        &self,
        row: usize,
        columns: impl IntoIterator<Item = usize>,
        kind: DatabaseKind,
    ) -> Result<Box<[u8]>, sqlx::Error> {
        let mut all = Vec::new();
        for column in columns {
            let given = on_kind!(kind, DB => {
                self.give(row, column, DB::any_take(&mut |value| DB::encoded(value, &mut all)))
            });
            given.map_err(sqlx::Error::Encode)?;
        }
        Ok(all.into())
    }

    /// Whether a column has the same value in a row and in another row of the model, to judge by the encoded values.
    pub(crate) fn is_same(
        &self,
        row: usize,
        column: usize,
        other: &dyn AnyModel,
        kind: DatabaseKind,
    ) -> bool {
        let (mut one, mut two) = (Vec::new(), Vec::new());
        let given = on_kind!(kind, DB => {
            self.give(row, column, DB::any_take(&mut |value| DB::encoded(value, &mut one)))
                .and_then(|()| self.give_of(other, column, DB::any_take(&mut |value| DB::encoded(value, &mut two))))
        });
        given.is_ok() && one == two
    }

    /// The encoded key of a row.
    pub(crate) fn encoded_key(
        &self,
        row: usize,
        kind: DatabaseKind,
    ) -> Result<Box<[u8]>, sqlx::Error> {
        self.encoded(row, self.schema().group(ColumnGroup::Key), kind)
    }

    /// The entry for a row before the write.
    pub(crate) fn previous_of(&mut self, row: usize) -> &mut PreviousRow {
        let (rows, index) = (self.len(), self.slice_index(row));
        let before = self.previous_rows();
        before.resize_with(rows, PreviousRow::default);
        &mut before[index]
    }

    /// Takes the rows before the write, in the order of the slice, to share them with receivers.
    pub(crate) fn take_previous(&mut self) -> Vec<SharedPreviousRow> {
        let rows = self.len();
        let mut before = std::mem::take(self.previous_rows());
        before.resize_with(rows, PreviousRow::default);
        before.into_iter().map(|before| Some(Arc::new(before))).collect()
    }
}

/// A key or a part of one, if it is an integer.
pub(crate) fn integer(key: &dyn Any) -> Option<i64> {
    key.downcast_ref::<i64>()
        .copied()
        .or_else(|| key.downcast_ref::<i32>().map(|key| (*key).into()))
        .or_else(|| key.downcast_ref::<i16>().map(|key| (*key).into()))
}
