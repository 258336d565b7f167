//! Which statements were sent on a PostgreSQL connection, so that sqlx knows the types of their columns there.
//!
//! If sqlx does not know a type on a connection, such as an enum, it asks the server for it after it has prepared the statement. The
//! server then forgets a statement without a name
//! (<https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY>), and executing it fails. So the
//! first statement of each form gets a name, or is sent again.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher};

use crate::database::backend::DatabaseKind;
use crate::database::sql_scan::{self, is_word_byte};

/// The forms of the statements that were sent.
#[derive(Default)]
pub(crate) struct SentStatements {
    answered: HashSet<u64>,
    /// The new form of the statement in flight. If it fails or is interrupted, the server may not have prepared it.
    in_flight: Option<u64>,
}

/// How many forms are kept. After that, each statement counts as new again.
const MOST: usize = 1024;

impl SentStatements {
    /// Whether this is the first statement of its form, so that sqlx may not know its types.
    pub(crate) fn is_first(&mut self, sql: &str) -> bool {
        let form = may_have_unknown_types(sql).then(|| form(sql));
        self.in_flight = form.filter(|form| !self.answered.contains(form));
        self.in_flight.is_some()
    }

    /// Records whether the statement in flight has succeeded.
    pub(crate) fn note_answer(&mut self, is_ok: bool) {
        if let Some(form) = self.in_flight.take().filter(|_| is_ok) {
            if self.answered.len() >= MOST {
                self.answered.clear();
            }
            self.answered.insert(form);
        }
    }
}

/// The first words of statements that return values, and that can run between a savepoint and its release.
const RETURNS_VALUES: &[&str] =
    &["SELECT", "WITH", "UPDATE", "DELETE", "MERGE", "VALUES", "TABLE", "FETCH", "EXECUTE", "CALL"];

/// Whether sqlx may have to ask for types. The types of arguments are known before a statement is prepared, except those of values that
/// are compared with a column.
pub(crate) fn may_have_unknown_types(sql: &str) -> bool {
    let mut words = sql_scan::words(DatabaseKind::Postgres, sql);
    let is = |word: &[u8], keyword: &&str| word.eq_ignore_ascii_case(keyword.as_bytes());
    words.next().is_some_and(|first| {
        RETURNS_VALUES.iter().any(|keyword| is(first, keyword))
            || is(first, &"INSERT") && words.any(|word| is(word, &"RETURNING"))
    })
}

/// A hash that is the same for statements which differ only in the number of their values, or in numbers.
fn form(sql: &str) -> u64 {
    let (mut hasher, mut in_word, mut is_skipped) = (DefaultHasher::new(), false, false);
    for byte in sql.bytes() {
        let is_number = !in_word && (byte == b'$' || byte.is_ascii_digit());
        in_word = !is_number && (is_word_byte(byte) || byte == b'"');
        let was_skipped = is_skipped;
        is_skipped = is_number || matches!(byte, b',' | b'(' | b')' | b' ');
        match (was_skipped, is_skipped) {
            (_, false) => hasher.write_u8(byte),
            (false, true) => hasher.write_u8(b' '),
            (true, true) => {}
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_with_more_values_are_not_new() {
        let mut statements = SentStatements::default();
        let mut sent = |sql: &str| {
            let is_first = statements.is_first(sql);
            statements.note_answer(true);
            is_first
        };
        assert!(sent("SELECT a FROM t WHERE id IN ($1)"));
        assert!(!sent("SELECT a FROM t WHERE id IN ($1, $2, $10)"));
        assert!(sent("SELECT a FROM t2 WHERE id IN ($1)"));
        assert!(!sent("INSERT INTO t (a) VALUES ($1)"));
        assert!(sent("insert into t (a) values ($1) returning b"));
        assert!(sent("SELECT c FROM (VALUES ($1, 1::bigint)) AS t1"));
        assert!(!sent("SELECT c FROM (VALUES ($1, 1::bigint), ($2, 2)) AS t1"));
        assert!(sent("SELECT c FROM (VALUES ($1, 1::bigint)) AS t2"));
        assert!(sent("SELECT a, b FROM t") && sent("SELECT ab FROM t"));
        assert!(sent("TABLE \"2024_a\"") && sent("TABLE \"2025_a\""));
    }

    #[test]
    fn a_statement_that_was_not_answered_is_new_again() {
        let mut sent = SentStatements::default();
        assert!(sent.is_first("SELECT 1"));
        sent.note_answer(false);
        assert!(sent.is_first("SELECT 1"), "the first one has failed");
        assert!(sent.is_first("SELECT 1"), "the second one was interrupted");
        sent.note_answer(true);
        assert!(!sent.is_first("SELECT 1"));
    }

    #[test]
    fn only_statements_that_return_values_have_unknown_types() {
        for sql in [
            " -- why\n/* because */ select 1",
            "(SELECT 1) UNION SELECT 2",
            "WITH a AS (SELECT 1) INSERT INTO t SELECT 1",
            "UPDATE t SET a = 1",
            "TABLE t",
            "FETCH ALL FROM c",
        ] {
            assert!(may_have_unknown_types(sql), "{sql}");
        }
        for sql in [
            "",
            "SET TRANSACTION READ ONLY",
            "COMMIT",
            "LOCK TABLE t",
            "SELECTED",
            "INSERT INTO t VALUES (' RETURNING ') -- RETURNING",
        ] {
            assert!(!may_have_unknown_types(sql), "{sql}");
        }
    }
}
