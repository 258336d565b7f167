//! The order in which several rows are written.
//!
//! PostgreSQL locks the rows of a statement one after the other, and keeps the locks until the end of the transaction. Two
//! transactions that lock the same rows in different orders deadlock. So all rows are written in the order of their keys,
//! whatever their order in the slice. Receivers and results keep the order of the slice.

use crate::backend::DatabaseKind;
use crate::instances::Instances;

/// The order in which rows are written, if it is not their own.
pub(crate) fn write_order(kind: DatabaseKind, rows: &dyn Instances) -> Vec<usize> {
    order(rows, |keyed| sort_by_key(kind, rows, keyed))
}

/// Those with a key first, so that they and those without are two statements, and no key that the database assigns is one that
/// comes later.
pub(crate) fn keyed_first(rows: &dyn Instances) -> Vec<usize> {
    order(rows, |_| ())
}

fn order(rows: &dyn Instances, sort: impl FnOnce(&mut [usize])) -> Vec<usize> {
    let (mut keyed, others): (Vec<_>, Vec<_>) = (0..rows.len()).partition(|row| rows.has_key(*row));
    sort(&mut keyed);
    keyed.extend(others);
    if keyed.is_sorted() { Vec::new() } else { keyed }
}

/// Sorts rows, all of which have a key, where the order in which rows are locked matters.
pub(crate) fn sort_by_key(kind: DatabaseKind, rows: &dyn Instances, order: &mut [usize]) {
    if kind == DatabaseKind::Postgres {
        sort(rows, order);
    }
}

/// The types whose order in SQL is that of [`sort_by_key`] in the collation `C` only.
pub(crate) fn is_text(type_name: &str) -> bool {
    matches!(type_name, "TEXT" | "VARCHAR" | "CHAR" | "NAME" | "UNKNOWN")
}

/// Sorts rows by their keys. Rows with the same key stay in their order.
///
/// The order must be the same for every caller and in every process. It is that of the encoded keys, in which numbers, text in
/// the collation `C`, UUIDs and times are in the order of the database. A key that cannot be encoded fails in the statement.
#[cfg(feature = "postgres")]
fn sort(rows: &dyn Instances, order: &mut [usize]) {
    if order.len() < 2 {
        return;
    }
    let mut keys = encoded::Keys::default();
    for row in &*order {
        keys.push(rows, *row);
    }
    let mut places: Vec<_> = (0..order.len()).collect();
    if places.is_sorted_by_key(|place| keys.of(*place)) {
        return;
    }
    places.sort_by_key(|place| keys.of(*place));
    let sorted: Vec<_> = places.into_iter().map(|place| order[place]).collect();
    order.copy_from_slice(&sorted);
}

#[cfg(not(feature = "postgres"))]
fn sort(_: &dyn Instances, _: &mut [usize]) {}

#[cfg(feature = "postgres")]
mod encoded {
    use sqlx::error::BoxDynError;
    use sqlx::postgres::PgArgumentBuffer;
    use sqlx::{Postgres, TypeInfo};

    use crate::backend::AnyTake;
    use crate::instances::Instances;
    use crate::statements::Group;
    use crate::store::Bindable;

    /// The encoded keys of rows, one after the other.
    #[derive(Default)]
    pub(super) struct Keys {
        buffer: PgArgumentBuffer,
        ends: Vec<usize>,
    }

    impl Keys {
        pub(super) fn push(&mut self, rows: &dyn Instances, row: usize) {
            for column in rows.statements().group(Group::Key) {
                let buffer = &mut self.buffer;
                let take = &mut |value: &dyn Bindable<Postgres>| append(value, buffer);
                // The statement that writes the row returns the error.
                let _ = rows.give(row, column, AnyTake::Postgres(take));
            }
            self.ends.push(self.buffer.len());
        }

        pub(super) fn of(&self, row: usize) -> &[u8] {
            let start = if row == 0 { 0 } else { self.ends[row - 1] };
            &self.buffer[start..self.ends[row]]
        }
    }

    /// Appends a value so that the order of the bytes is that of the values, also if more bytes follow.
    fn append(
        value: &dyn Bindable<Postgres>,
        buffer: &mut PgArgumentBuffer,
    ) -> Result<(), BoxDynError> {
        let start = buffer.len();
        let ty = value.type_info();
        match ty.name() {
            // Signed, in big-endian order.
            "INT8" | "INT4" | "INT2" | "TIMESTAMPTZ" | "TIMESTAMP" | "DATE" | "TIME" | "MONEY" => {
                let _ = value.encode(buffer)?;
                if let Some(first) = buffer.get_mut(start) {
                    *first ^= 0x80;
                }
            }
            // No text contains a zero byte.
            name if super::is_text(name) => {
                let _ = value.encode(buffer)?;
                buffer.push(0);
            }
            _ => {
                buffer.extend_from_slice(&[0; 4]);
                let _ = value.encode(buffer)?;
                let length = u32::try_from(buffer.len() - start - 4)?;
                buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
            }
        }
        Ok(())
    }
}
