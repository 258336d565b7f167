//! The order in which several rows are written.
//!
//! PostgreSQL locks the rows of a statement one after the other, and keeps the locks until the end
//! of the transaction. Two transactions that lock the same rows in different orders deadlock. So
//! all rows are written in the order of their keys, regardless of their order in the caller's
//! slice. Receivers and results keep the order of the slice.

use crate::database::backend::DatabaseKind;
use crate::database::conn::Conn;
use crate::database::schema_cache::Casts;
use crate::error::Result;
use crate::table::rows::Rows;
use crate::table::schema::ColumnGroup;
use crate::write::inspect;

/// Returns the order in which the rows are written. An empty order means that of the caller's
/// slice.
///
/// # Errors
///
/// Returns the database's error if the lookup of how it compares the keys fails.
pub(crate) async fn write_order(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<Vec<usize>> {
    let casts = key_casts(conn, rows).await?;
    Ok(order(rows, |keyed| sort_by_key(conn.kind(), rows, &casts, keyed)))
}

/// The order in which rows with a key come first. So rows with a key and rows without one form two
/// statements, and the database does not generate a key that a later row already has.
pub(crate) fn keyed_first(rows: &dyn Rows) -> Vec<usize> {
    order(rows, |_| ())
}

fn order(rows: &dyn Rows, sort: impl FnOnce(&mut [usize])) -> Vec<usize> {
    let (mut keyed, others): (Vec<_>, Vec<_>) = (0..rows.len()).partition(|row| rows.has_key(*row));
    sort(&mut keyed);
    keyed.extend(others);
    if keyed.is_sorted() { Vec::new() } else { keyed }
}

/// The types of the key columns that compare text by their own rules. Looked up only if there are
/// several rows to sort.
pub(crate) async fn key_casts(conn: &mut Conn<'_>, rows: &dyn Rows) -> Result<Casts> {
    let kind = conn.kind();
    let mut key = rows.schema().group(ColumnGroup::Key);
    let first = (0..rows.len()).find(|row| rows.has_key(*row));
    match first {
        Some(first) if rows.len() > 1 && key.any(|column| rows.is_text(first, column, kind)) => {
            inspect::casts(conn, rows).await
        }
        _ => Ok(None),
    }
}

/// Sorts rows that all have a key, if the order in which rows are locked matters.
pub(crate) fn sort_by_key(kind: DatabaseKind, rows: &dyn Rows, casts: &Casts, order: &mut [usize]) {
    if kind == DatabaseKind::Postgres {
        sort(rows, casts, order);
    }
}

/// The `ORDER BY` expression with which PostgreSQL sorts as [`sort_by_key`] does. `name` is the key
/// column, `field` the type of the field, and `cast` the type of the column if it compares text by
/// its own rules.
pub(crate) fn sql(name: &str, field: &str, cast: Option<&str>) -> String {
    match field {
        _ if ignores_case(cast.unwrap_or(field)) => {
            format!("lower({name}::text) COLLATE \"C\"")
        }
        field if is_text(field) => format!("{name} COLLATE \"C\""),
        "BYTEA" => format!("octet_length({name}), {name}"),
        "INET" | "CIDR" | "INTERVAL" | "TIMETZ" => {
            let sent = format!("{}_send({name})", field.to_ascii_lowercase());
            format!("octet_length({sent}), {sent}")
        }
        field if HAVE_ORDER_OF_BYTES.contains(&field) || field.ends_with("[]") => name.to_owned(),
        // An enum is sent as its label.
        _ => format!("octet_length({name}::text), {name}::text COLLATE \"C\""),
    }
}

/// The types of PostgreSQL whose values have the order of the bytes that [`sort_by_key`] compares.
const HAVE_ORDER_OF_BYTES: [&str; 16] = [
    "BOOL", "INT2", "INT4", "INT8", "FLOAT4", "FLOAT8", "NUMERIC", "MONEY", "UUID", "OID",
    "TIMESTAMP", "TIMESTAMPTZ", "DATE", "TIME", "MACADDR", "\"CHAR\"",
];

/// Whether values that are equal in the database always have the same encoding.
pub(crate) fn compares_bytes(field: &str) -> bool {
    const TYPES: [&str; 12] = [
        "BOOL", "BOOLEAN", "INT2", "INT4", "INT8", "INTEGER", "UUID", "BYTEA", "BLOB", "TIMESTAMP",
        "TIMESTAMPTZ", "DATE",
    ];
    TYPES.contains(&field)
}

/// Whether a type is a text type. Without an explicit collation, the database sorts text
/// differently than [`sort_by_key`] does.
fn is_text(field: &str) -> bool {
    ["TEXT", "VARCHAR", "CHAR", "NAME", "UNKNOWN"].iter().any(|ty| field.eq_ignore_ascii_case(ty))
}

/// Whether a type ignores case when it compares text.
fn ignores_case(ty: &str) -> bool {
    let name = ty.rsplit('.').next().unwrap_or(ty);
    name.eq_ignore_ascii_case("citext")
}

/// Sorts rows by their keys. Rows with the same key keep their order.
///
/// The order must be the same for every caller and in every process, regardless of how a key is
/// written. It is the order of the encoded keys: for numbers, text in the collation `C`, UUIDs and
/// times, the encoding has the order of the database. If a key cannot be encoded, the statement
/// that writes the row returns the error.
#[cfg(feature = "postgres")]
fn sort(rows: &dyn Rows, casts: &Casts, order: &mut [usize]) {
    if order.len() < 2 {
        return;
    }
    let mut keys = encoded::Keys::default();
    for row in &*order {
        keys.push(rows, *row, casts);
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
fn sort(_: &dyn Rows, _: &Casts, _: &mut [usize]) {}

#[cfg(feature = "postgres")]
mod encoded {
    use sqlx::error::BoxDynError;
    use sqlx::postgres::PgArgumentBuffer;
    use sqlx::{Postgres, TypeInfo};

    use crate::database::backend::AnyTake;
    use crate::database::backend::Bindable;
    use crate::database::schema_cache::Casts;
    use crate::table::rows::Rows;
    use crate::table::schema::ColumnGroup;

    /// The encoded keys of rows, concatenated.
    #[derive(Default)]
    pub(super) struct Keys {
        buffer: PgArgumentBuffer,
        ends: Vec<usize>,
    }

    impl Keys {
        pub(super) fn push(&mut self, rows: &dyn Rows, row: usize, casts: &Casts) {
            for column in rows.schema().group(ColumnGroup::Key) {
                let buffer = &mut self.buffer;
                let mut casts = casts.iter().flat_map(|casts| &**casts);
                let cast = casts.find(|(of, _)| *of == column).map(|(_, ty)| &**ty);
                let take = &mut |value: &dyn Bindable<Postgres>| append(value, cast, buffer);
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

    /// Appends a value so that the order of the bytes is the order of the values, even if more
    /// bytes follow.
    fn append(
        value: &dyn Bindable<Postgres>,
        cast: Option<&str>,
        buffer: &mut PgArgumentBuffer,
    ) -> Result<(), BoxDynError> {
        let start = buffer.len();
        let ty = value.type_info();
        match ty.name() {
            name if super::ignores_case(cast.unwrap_or(name)) => {
                let _ = value.encode(buffer)?;
                let text = String::from_utf8_lossy(&buffer[start..]).to_lowercase();
                buffer.truncate(start);
                buffer.extend_from_slice(text.as_bytes());
                buffer.push(0);
            }
            // Signed integers in big-endian order: negative numbers have the sign bit set, but come
            // first.
            "INT8" | "INT4" | "INT2" | "TIMESTAMPTZ" | "TIMESTAMP" | "DATE" | "TIME" | "MONEY" => {
                let _ = value.encode(buffer)?;
                if let Some(first) = buffer.get_mut(start) {
                    *first ^= 0x80;
                }
            }
            // No text contains a zero byte.
            name if super::is_text(name) => {
                let _ = value.encode(buffer)?;
                // `char(n)` ignores trailing spaces.
                if cast.is_some() {
                    let text = buffer[start..].trim_ascii_end().len();
                    buffer.truncate(start + text);
                }
                buffer.push(0);
            }
            // The sign is the first bit, and negative numbers sort in reverse.
            "FLOAT8" | "FLOAT4" => {
                let _ = value.encode(buffer)?;
                let is_negative = buffer.get(start).is_some_and(|first| first & 0x80 != 0);
                let bytes = buffer.iter_mut().skip(start).enumerate();
                bytes.for_each(|(i, byte)| {
                    *byte ^= if is_negative {
                        0xff
                    } else if i == 0 {
                        0x80
                    } else {
                        0
                    };
                });
            }
            "NUMERIC" => {
                let _ = value.encode(buffer)?;
                let sent = buffer.split_off(start);
                append_numeric(&sent, buffer);
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

    /// Appends a number whose encoding consists of the number of its digits, the weight of the first one, its sign, its scale, and its digits to
    /// the base 10,000
    /// (<https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/utils/adt/numeric.c>, `numeric_send`). Without the scale,
    /// because 1.0 and 1.00 are equal.
    fn append_numeric(sent: &[u8], buffer: &mut PgArgumentBuffer) {
        let words = sent.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
        let words: Vec<_> = words.collect();
        let [_, weight, sign, _, digits @ ..] = &words[..] else { return };
        let is_zero = digits.iter().all(|digit| *digit == 0);
        buffer.push(match sign {
            0xf000 => 0, // -Infinity
            0x4000 if !is_zero => 1,
            0 | 0x4000 => 2 + u8::from(!is_zero),
            0xd000 => 4, // Infinity
            _ => 5,      // NaN
        });
        if is_zero {
            return;
        }
        let used = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        let digits = digits[..used].iter().map(|digit| digit + 1);
        let inverted = if *sign == 0x4000 { 0xffff } else { 0 };
        for word in [weight ^ 0x8000].into_iter().chain(digits).chain([0]) {
            buffer.extend_from_slice(&(word ^ inverted).to_be_bytes());
        }
    }
}
