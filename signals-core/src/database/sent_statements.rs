//! Which statements were sent on a PostgreSQL connection, so that sqlx knows the types of their columns there.
//!
//! If sqlx does not know a type on a connection, such as an enum, it asks the server for it after it has prepared the statement. The
//! server then forgets a statement without a name
//! (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>), and executing it fails. So the
//! first statement of each form gets a name, or is sent again.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};

/// The forms of the statements that were sent.
#[derive(Default)]
pub(crate) struct SentStatements(HashSet<u64>);

/// How many forms are kept. After that, each statement counts as new again.
const MOST: usize = 1024;

impl SentStatements {
    /// Whether this is the first statement of its form, so that sqlx may not know its types.
    pub(crate) fn is_first(&mut self, sql: &str) -> bool {
        if !may_have_unknown_types(sql) {
            return false;
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(form(sql))
    }
}

/// Whether sqlx may have to ask for types. The types of arguments are known before a statement is prepared, except those of values that
/// are compared with a column.
pub(crate) fn may_have_unknown_types(sql: &str) -> bool {
    let first = sql.trim_start().get(..6);
    let inserts = first.is_some_and(|first| first.eq_ignore_ascii_case("INSERT"));
    !inserts || sql.to_ascii_uppercase().contains("RETURNING")
}

/// A hash that is the same for statements which differ only in the number of their values.
fn form(sql: &str) -> u64 {
    let (mut hasher, mut in_placeholder) = (DefaultHasher::new(), false);
    for byte in sql.bytes() {
        in_placeholder = byte == b'$' || in_placeholder && byte.is_ascii_digit();
        if !in_placeholder && !matches!(byte, b',' | b'(' | b')' | b' ') {
            hasher.write_u8(byte);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_with_more_values_are_not_new() {
        let mut sent = SentStatements::default();
        assert!(sent.is_first("SELECT a FROM t WHERE id IN ($1)"));
        assert!(!sent.is_first("SELECT a FROM t WHERE id IN ($1, $2, $10)"));
        assert!(sent.is_first("SELECT a FROM t2 WHERE id IN ($1)"));
        assert!(!sent.is_first("INSERT INTO t (a) VALUES ($1)"));
        assert!(sent.is_first("insert into t (a) values ($1) returning b"));
    }
}
