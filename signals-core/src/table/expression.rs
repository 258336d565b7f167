//! PostgreSQL expressions that composed statements contain.

/// The SQL that tells whether two values of one type differ, on PostgreSQL.
///
/// Values with equal text are equal. Values with different text can be equal too: the numbers 1.0 and 1.00, or JSON objects
/// with their members in another order. Not every type has an equality operator. Numbers, times, intervals and ranges have
/// one; values of other types are compared as JSON, which cannot contain the zero character.
pub(super) fn differ(one: &str, other: &str) -> String {
    format!(
        "CASE WHEN {one}::text IS NOT DISTINCT FROM {other}::text THEN false WHEN {one}::text IS NULL OR {other}::text IS NULL \
         THEN true WHEN (SELECT typcategory IN ('N', 'D', 'T', 'R') FROM pg_type WHERE pg_type.oid = pg_typeof({one})) THEN \
         ROW({one})::record <> ROW({other})::record WHEN position('\\u0000' IN concat({one}::text, {other}::text)) > 0 THEN true \
         ELSE to_jsonb({one}) <> to_jsonb({other}) END"
    )
}

/// The elements of an array argument, one per row. Several `UNNEST` in one SELECT list advance together. In FROM, a composite
/// type would be split into its fields.
pub(super) fn unnest(index: usize) -> String {
    format!("UNNEST(${index})")
}

/// The number of rows that PostgreSQL expects of a set-returning function whose rows it cannot estimate. No statement with
/// rows of values has more.
pub(super) const ESTIMATED_ROWS: usize = 1000;

/// The indexes of the elements of an array.
///
/// PostgreSQL estimates [`ESTIMATED_ROWS`] rows for it, whatever the array's length is. With this estimate, it joins the table
/// to the given rows, in the order of their keys: it hashes the table, or looks up each row. With an estimate below the size
/// of the table, it would hash the given rows, scan the table, and so lock the rows in the order of the table.
pub(super) fn subscripts(array: &str) -> String {
    format!("GENERATE_SUBSCRIPTS({array}, 1)::bigint")
}
