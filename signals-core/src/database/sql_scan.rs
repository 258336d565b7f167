//! Finds statements in SQL text that begin or end a transaction or a savepoint, or that change the schema.

use crate::database::backend::DatabaseKind;
use crate::database::sql_tokens::quoted;

/// A statement that begins or ends a transaction or a savepoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) statement: &'static str,
    /// The method to use instead.
    pub(crate) instead: &'static str,
}

/// The first word of each statement, the word that must follow it, and the method to use instead.
const STATEMENTS: &[(&str, Option<&str>, &str)] = &[
    ("BEGIN", None, "`begin()`"),
    ("START", Some("TRANSACTION"), "`begin()`"),
    ("SAVEPOINT", None, "`begin()`"),
    ("COMMIT", None, "`commit()`"),
    ("END", None, "`commit()`"),
    ("RELEASE", None, "`commit()`"),
    ("PREPARE", Some("TRANSACTION"), "`commit()`"),
    ("ROLLBACK", None, "`rollback()`"),
    ("ABORT", None, "`rollback()`"),
];

/// Returns the first statement of `sql` that begins or ends a transaction or a savepoint. Only the first words of a statement
/// are compared; comments, strings, quoted names, and the bodies of triggers and functions are skipped.
pub(crate) fn find(kind: DatabaseKind, sql: &str) -> Option<Control> {
    let is_control = |first: &[u8], rest: &Tokens<'_>| {
        let mut statements = STATEMENTS.iter().filter(|(statement, ..)| is(first, statement));
        let found = statements
            .find(|(_, second, _)| second.is_none_or(|second| rest.clone().starts_with(second)));
        found.map(|&(statement, _, instead)| Control { statement, instead })
    };
    find_statement(kind, sql, is_control)
}

/// The first words of statements that may change the schema, or the schema that the connection sees.
const ALTERS: &[&str] =
    &["CREATE", "ALTER", "DROP", "PRAGMA", "ATTACH", "DETACH", "DO", "CALL", "IMPORT"];

/// Whether `sql` may change the schema.
pub(crate) fn alters(kind: DatabaseKind, sql: &str) -> bool {
    let is_match =
        |first: &[u8], _: &Tokens<'_>| ALTERS.iter().any(|word| is(first, word)).then_some(());
    find_statement(kind, sql, is_match).is_some()
}

/// The words of `sql`, without those in comments, strings and quoted names.
pub(crate) fn words(kind: DatabaseKind, sql: &str) -> impl Iterator<Item = &[u8]> {
    let mut tokens = Tokens { rest: sql.as_bytes(), kind };
    let tokens = std::iter::from_fn(move || tokens.next());
    tokens.filter_map(|token| if let Token::Word(word) = token { Some(word) } else { None })
}

/// Calls `test` with the first word of each statement and the tokens after it, until it returns `Some`.
fn find_statement<T>(
    kind: DatabaseKind,
    sql: &str,
    test: impl Fn(&[u8], &Tokens<'_>) -> Option<T>,
) -> Option<T> {
    let several = sql.contains(';');
    let mut tokens = Tokens { rest: sql.as_bytes(), kind };
    loop {
        let first = match tokens.next()? {
            Token::Word(word) => word,
            Token::Semicolon => continue,
            _ => &[],
        };
        if let Some(found) = test(first, &tokens) {
            return Some(found);
        }
        if !several {
            return None;
        }
        tokens.skip_statement(is(first, "CREATE"));
    }
}

fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

enum Token<'s> {
    Word(&'s [u8]),
    Semicolon,
    Open,
    Close,
    Other,
}

#[derive(Clone)]
struct Tokens<'s> {
    rest: &'s [u8],
    kind: DatabaseKind,
}

impl<'s> Tokens<'s> {
    /// Skips the rest of a statement. If it starts with CREATE (`creates`), this includes the body of a trigger or function.
    fn skip_statement(&mut self, creates: bool) {
        let (mut depth, mut has_body) = (0_usize, false);
        while let Some(token) = self.next() {
            match token {
                Token::Open => depth += 1,
                Token::Close => depth = depth.saturating_sub(1),
                Token::Semicolon if depth == 0 => return,
                Token::Word(word) if creates && depth == 0 => {
                    let kinds = ["TRIGGER", "FUNCTION", "PROCEDURE"];
                    has_body |= kinds.iter().any(|kind| is(word, kind));
                    if has_body && is(word, "BEGIN") {
                        self.skip_body();
                    }
                }
                _ => {}
            }
        }
    }

    /// Skips the statements between BEGIN and END.
    fn skip_body(&mut self) {
        if self.kind == DatabaseKind::Postgres && self.clone().starts_with("ATOMIC") {
            self.next();
        }
        while let Some(token) = self.next() {
            match token {
                Token::Word(word) if is(word, "END") => return,
                Token::Semicolon => {}
                _ => self.skip_statement(false),
            }
        }
    }

    fn starts_with(mut self, keyword: &str) -> bool {
        matches!(self.next(), Some(Token::Word(word)) if is(word, keyword))
    }

    fn next(&mut self) -> Option<Token<'s>> {
        self.skip_space();
        let first = *self.rest.first()?;
        let postgres = self.kind == DatabaseKind::Postgres;
        Some(match first {
            b';' => self.take_byte(Token::Semicolon),
            b'(' => self.take_byte(Token::Open),
            b')' => self.take_byte(Token::Close),
            b'\'' | b'"' => self.skip_quoted(false),
            b'`' if !postgres => self.skip_quoted(false),
            b'[' if !postgres => self.skip_past(b"]", 1),
            b'$' if postgres => self.skip_dollar(),
            _ if is_word_byte(first) => {
                let end = self.rest.iter().position(|byte| !is_word_byte(*byte));
                let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                match rest.first() {
                    // A string with backslash escapes.
                    Some(b'\'') if postgres && is(word, "E") => self.skip_quoted(true),
                    _ => Token::Word(word),
                }
            }
            _ => self.take_byte(Token::Other),
        })
    }

    fn take_byte(&mut self, token: Token<'s>) -> Token<'s> {
        self.rest = &self.rest[1..];
        token
    }

    /// Skips whitespace and comments.
    fn skip_space(&mut self) {
        loop {
            // SQLite treats a byte order mark as whitespace.
            let space = |byte: &u8| {
                !byte.is_ascii_whitespace() && !matches!(byte, 0x0b | 0xef | 0xbb | 0xbf)
            };
            let skip = self.rest.iter().position(space).unwrap_or(self.rest.len());
            self.rest = &self.rest[skip..];
            match self.rest {
                [b'-', b'-', ..] => {
                    let carriage_return = self.kind == DatabaseKind::Postgres;
                    let ends = |byte: &u8| *byte == b'\n' || (*byte == b'\r' && carriage_return);
                    let end = self.rest.iter().position(ends).unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                [b'/', b'*', ..] => self.skip_comment(),
                _ => return,
            }
        }
    }

    /// Skips a block comment. On Postgres, block comments nest.
    fn skip_comment(&mut self) {
        let mut depth = 0_usize;
        while let [first, rest @ ..] = self.rest {
            self.rest = rest;
            match (first, rest.first()) {
                (b'/', Some(b'*')) if depth == 0 || self.kind == DatabaseKind::Postgres => {
                    depth += 1
                }
                (b'*', Some(b'/')) => depth -= 1,
                _ => continue,
            }
            self.rest = &rest[1..];
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips to the end of a string or a quoted name.
    fn skip_quoted(&mut self, backslashes: bool) -> Token<'s> {
        self.rest = &self.rest[quoted(self.rest, backslashes)..];
        Token::Other
    }

    /// Skips a dollar-quoted string `$tag$ … $tag$`, or the `$` of a placeholder.
    fn skip_dollar(&mut self) -> Token<'s> {
        let tag = self.rest[1..].iter().position(|byte| !is_word_byte(*byte) || *byte == b'$');
        match tag {
            Some(end) if self.rest[end + 1] == b'$' && !self.rest[1].is_ascii_digit() => {
                let tag = &self.rest[..end + 2];
                self.skip_past(tag, tag.len())
            }
            _ => self.take_byte(Token::Other),
        }
    }

    /// Skips to the byte after the next `end`, which is searched from byte `from`.
    fn skip_past(&mut self, end: &[u8], from: usize) -> Token<'s> {
        let found = self.rest[from..].windows(end.len()).position(|bytes| bytes == end);
        self.rest = found.map_or(&[], |at| &self.rest[from + at + end.len()..]);
        Token::Other
    }
}

pub(crate) fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use DatabaseKind::{Postgres, Sqlite};

    fn found(kind: DatabaseKind, sql: &str) -> Option<&'static str> {
        find(kind, sql).map(|control| control.statement)
    }

    #[test]
    fn the_first_word_of_each_statement_decides() {
        for kind in [Postgres, Sqlite] {
            for (sql, statement) in [
                ("BEGIN", "BEGIN"),
                (" -- why\n/* because; */ begin immediate", "BEGIN"),
                ("START /* a */ TRANSACTION", "START"),
                ("; ;COMMIT AND CHAIN", "COMMIT"),
                ("INSERT INTO t VALUES (1);End", "END"),
                ("SELECT ';' ; rollback to a", "ROLLBACK"),
                ("SELECT 'it''s; COMMIT', \"a;\"\"b\" ; ABORT", "ABORT"),
                ("SAVEPOINT a", "SAVEPOINT"),
                ("release a", "RELEASE"),
                ("PREPARE TRANSACTION 'x'", "PREPARE"),
                ("CREATE TABLE t (a int); COMMIT", "COMMIT"),
                ("CREATE TABLE begin (a int); COMMIT", "COMMIT"),
            ] {
                assert_eq!(found(kind, sql), Some(statement), "{kind:?}: {sql}");
            }
            for sql in [
                "",
                "SELECT 'COMMIT'",
                "SELECT '; COMMIT; '",
                "SELECT 1 -- ; ROLLBACK\n",
                "SELECT 1 /* ; ROLLBACK; */ ; SELECT 2",
                "SELECT CASE WHEN a THEN b END FROM begin; SELECT 1",
                "UPDATE t SET \"commit\" = 1; DELETE FROM \"x;rollback\"",
                "PREPARE plan AS SELECT 1",
                "EXPLAIN SELECT 1",
                "commitment",
            ] {
                assert_eq!(found(kind, sql), None, "{kind:?}: {sql}");
            }
        }
    }

    #[test]
    fn statements_that_change_the_schema_are_found() {
        for kind in [Postgres, Sqlite] {
            for sql in [
                "CREATE TRIGGER t",
                " /* a */ create table t (a int)",
                "SELECT 1; alter table t add a int",
                "INSERT INTO t VALUES (';'); DROP TABLE t",
                "PRAGMA foreign_keys = 1",
            ] {
                assert!(alters(kind, sql), "{kind:?}: {sql}");
            }
            for sql in ["SELECT 1", "", "INSERT INTO t VALUES ('; DROP TABLE t')", "droplet"] {
                assert!(!alters(kind, sql), "{kind:?}: {sql}");
            }
        }
    }

    #[test]
    fn bodies_and_quotes_of_one_database_do_not_count() {
        let trigger = "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET b = CASE WHEN 1 THEN 2 END; SELECT 1; END; ";
        assert_eq!(found(Sqlite, trigger), None);
        assert_eq!(found(Sqlite, &format!("{trigger} COMMIT")), Some("COMMIT"));
        assert_eq!(found(Sqlite, "SELECT [;COMMIT;], `;COMMIT` ; SELECT 1"), None);
        assert_eq!(found(Sqlite, "SELECT $a;ROLLBACK; SELECT $a"), Some("ROLLBACK"));
        assert_eq!(found(Sqlite, "/* /* */ ROLLBACK"), Some("ROLLBACK"));
        assert_eq!(found(Postgres, "/* /* */ ROLLBACK; */ SELECT 1"), None);
        let body = "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END; ";
        assert_eq!(found(Postgres, body), None);
        assert_eq!(found(Postgres, &format!("{body} COMMIT")), Some("COMMIT"));
        assert_eq!(found(Postgres, "DO $$ BEGIN; COMMIT; END $$; SELECT 1"), None);
        assert_eq!(found(Postgres, "DO $a$ $$ ;COMMIT; $a$; SELECT $1; END"), Some("END"));
        assert_eq!(found(Postgres, r"SELECT E'\';COMMIT;', a$b FROM t; SELECT 1"), None);
        assert_eq!(found(Postgres, r"SELECT '\'; ROLLBACK"), Some("ROLLBACK"));
        assert_eq!(found(Postgres, r"SELECT E'a''\'' ; COMMIT"), Some("COMMIT"));
        assert_eq!(found(Postgres, r"SELECT E'\\''; COMMIT' ; SELECT 1"), None);
        assert_eq!(
            found(Postgres, "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; COMMIT); SELECT 1"),
            None
        );
    }
}
