//! Scans the SQL that a query has after `FROM table`, to find out which clauses it contains.

use std::iter::Peekable;

use crate::database::backend::DatabaseKind;
use crate::model::clause_tokens::{Token, Tokens};

/// The SQL of a query after `FROM table`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clause<'c> {
    pub(crate) text: &'c str,
    kind: DatabaseKind,
}

/// Keywords that can follow the name of a table that has no alias.
const AFTER_TABLE: [&str; 12] = [
    "AS", "JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "NATURAL", "TABLESAMPLE", "INDEXED",
    "NOT", "WHERE",
];

/// Keywords that can follow the condition of a WHERE.
const AFTER_CONDITION: [&str; 11] = [
    "GROUP", "HAVING", "WINDOW", "UNION", "INTERSECT", "EXCEPT", "ORDER", "LIMIT", "OFFSET",
    "FETCH", "FOR",
];

impl<'c> Clause<'c> {
    pub(crate) fn new(kind: DatabaseKind, text: &'c str) -> Self {
        Self { text, kind }
    }

    fn tokens(self) -> Peekable<Tokens<'c>> {
        Tokens::of(self.kind, self.text, false).peekable()
    }

    fn has_word(self, among: &[&str]) -> bool {
        self.tokens().any(|token| token.is_word(among))
    }

    /// Whether the clause is empty or only a WHERE, so that an UPDATE or DELETE can use it unchanged.
    pub(crate) fn is_condition(self) -> bool {
        let first = self.tokens().next();
        first.is_none_or(|first| first.is_word(&["WHERE"])) && !self.has_word(&AFTER_CONDITION)
    }

    /// The name or alias of the model's table, if the clause gives it an alias or can join other tables. Columns must then be
    /// qualified with it, because another table can have a column of the same name.
    pub(crate) fn table(self, table: &'static str) -> Option<&'c str>
    where
        'static: 'c,
    {
        let mut tokens = self.tokens();
        let first = tokens.next()?;
        if first.is_word(&["WHERE"]) || first.is_word(&AFTER_CONDITION) {
            return None;
        }
        if first.is_word(&["AS"]) {
            return tokens.next().and_then(Token::name).or(Some(table));
        }
        let alias = Some(first).filter(|first| !first.is_word(&AFTER_TABLE));
        alias.and_then(Token::name).or(Some(table))
    }

    /// Whether the clause contains a locking clause such as `FOR UPDATE`.
    pub(crate) fn locks(self) -> bool {
        let mut tokens = self.tokens();
        while let Some(token) = tokens.next() {
            let strength = |next: &Token<'_>| next.is_word(&["UPDATE", "NO", "SHARE", "KEY"]);
            if token.is_word(&["FOR"]) && tokens.peek().is_some_and(strength) {
                return true;
            }
        }
        false
    }

    /// The text before the WHERE, the condition, and the text from the first keyword after it.
    pub(crate) fn parts(self) -> Parts<'c> {
        let text = self.text;
        let mut tokens = Tokens::of(self.kind, self.text, false);
        let (mut condition, mut tail) = (None, text.len());
        while let Some(token) = tokens.next() {
            let end = text.len() - tokens.text.len();
            let Token::Word(word) = token else { continue };
            if condition.is_none() && token.is_word(&["WHERE"]) {
                condition = Some((end - word.len(), end));
            } else if token.is_word(&AFTER_CONDITION) {
                tail = end - word.len();
                break;
            }
        }
        let (head, start) = condition.unwrap_or((tail, tail));
        let condition = condition.map(|_| &text[start..tail]);
        let tail = Clause { text: &text[tail..], ..self };
        Parts { head: &text[..head], condition, tail }
    }

    /// Whether the clause has a limit of its own.
    pub(crate) fn is_limited(self) -> bool {
        self.has_word(&["LIMIT", "FETCH", "OFFSET"])
    }

    /// Whether anything but a locking clause follows the condition, where `self` is [`Parts::tail`].
    pub(crate) fn is_ordered_or_grouped(self) -> bool {
        let after = AFTER_CONDITION.iter().filter(|word| **word != "FOR");
        self.has_word(&after.copied().collect::<Vec<_>>())
    }

    /// Whether the clause can only follow a SELECT of every column: it contains another SELECT, or the number of a column.
    pub(crate) fn needs_columns(self) -> bool {
        let mut tokens = self.tokens();
        let Some(token) =
            tokens.find(|token| token.is_word(&["UNION", "INTERSECT", "EXCEPT", "ORDER", "GROUP"]))
        else {
            return false;
        };
        // The number of a column is the first word of a term.
        let mut begins = false;
        let mut is_number = |token: Token<'_>| {
            let is_digit = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
            let is_number = begins && token.name().is_some_and(is_digit);
            begins = token == Token::Comma || token.is_word(&["BY"]);
            is_number
        };
        let ends = |token: &Token<'_>| {
            token.is_word(&["HAVING", "WINDOW", "LIMIT", "OFFSET", "FETCH", "FOR"])
        };
        !token.is_word(&["ORDER", "GROUP"])
            || tokens
                .take_while(|token| !ends(token))
                .any(|token| is_number(token) || token.is_word(&["UNION", "INTERSECT", "EXCEPT"]))
            || self.has_word(&["UNION", "INTERSECT", "EXCEPT"])
    }

    /// Whether a result row may not correspond to exactly one row of the table, or contains a window function, so that
    /// PostgreSQL rejects a lock on the result.
    pub(crate) fn is_derived(self) -> bool {
        self.has_word(&["GROUP", "HAVING", "UNION", "INTERSECT", "EXCEPT", "RIGHT", "FULL"])
            || self.orders_by_window()
    }

    fn orders_by_window(self) -> bool {
        let tail = self.parts().tail;
        let mut tokens = Tokens::of(tail.kind, tail.text, true);
        tokens.any(|token| token.is_word(&["OVER"]))
    }
}

/// A clause in three parts.
pub(crate) struct Parts<'c> {
    pub(crate) head: &'c str,
    /// Without the word WHERE; `None` if there is no condition.
    pub(crate) condition: Option<&'c str>,
    pub(crate) tail: Clause<'c>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use DatabaseKind::{Postgres, Sqlite};

    fn clause(text: &str) -> Clause<'_> {
        Clause::new(Postgres, text)
    }

    #[test]
    fn only_a_where_clause_is_a_condition() {
        for text in [
            "",
            "  \n",
            "WHERE a = 1",
            "where a = 'it''s for limit' AND \"order\" = $1",
            "WHERE id IN (SELECT id FROM t ORDER BY id LIMIT 1 FOR UPDATE)",
            "WHERE a = $q$ ORDER ' BY $q$ -- LIMIT\n /* FOR /* UPDATE */ LIMIT */ AND b",
            r"WHERE a = E'\' LIMIT 1 '",
            "WHERE a[1] = ANY(ARRAY['ORDER BY', 'x'])",
            "WHERE t.limit > $1 AND t . order = 1.5",
            "WHERE a$b$c = 1 AND $1 = a$b$c",
        ] {
            assert!(clause(text).is_condition(), "{text}");
        }
        for text in [
            "ORDER BY id",
            "WHERE a ORDER BY id LIMIT 1",
            "WHERE a = 'x'limit 1",
            "WHERE a FOR UPDATE",
            "WHERE a > 1 OFFSET 1",
            "WHERE 1 < (SELECT count(*)) OFFSET 1",
            "WHERE a$b$ = 1 ORDER BY a$b$",
            "ORDER BY a USING > OFFSET 1",
            "WHERE a = ALL (b) WINDOW w AS (PARTITION BY a)",
            "JOIN o ON true WHERE a",
            "AS t WHERE t.a",
            "WHERE a UNION SELECT 1",
            r"WHERE a = '\' LIMIT 1",
        ] {
            assert!(!clause(text).is_condition(), "{text}");
        }
    }

    #[test]
    fn sqlite_does_not_reserve_every_keyword() {
        for text in [
            "WHERE offset > 1 AND NOT offset = 5 OR (a) AND offset IS NULL",
            "WHERE 1 < offset AND a || offset = -offset",
            "WHERE 1 IS offset OR a LIKE fetch OR a BETWEEN for AND window",
            "WHERE CASE offset WHEN fetch THEN for ELSE window END",
            "WHERE window = 1 AND 1 = window",
            "WHERE [it's] = 1 AND [order by] = 2",
        ] {
            assert!(Clause::new(Sqlite, text).is_condition(), "{text}");
            assert!(!Clause::new(Sqlite, text).is_limited(), "{text}");
        }
        for text in ["WHERE a LIMIT 1", "WHERE a WINDOW w AS (PARTITION BY a)", "ORDER BY offset"] {
            assert!(!Clause::new(Sqlite, text).is_condition(), "{text}");
        }
        assert!(Clause::new(Sqlite, "ORDER BY offset LIMIT 1 OFFSET 2").is_limited());
        assert!(!Clause::new(Sqlite, "ORDER BY a, offset").needs_columns());
    }

    #[test]
    fn an_operator_of_an_order_is_no_operand() {
        assert!(clause("ORDER BY a USING > LIMIT 5").is_limited());
        assert!(clause("ORDER BY a USING < FOR UPDATE").locks());
    }

    #[test]
    fn columns_are_qualified_if_other_tables_can_be_joined() {
        let table = |text| clause(text).table("\"users\"");
        assert_eq!(table("WHERE a"), None);
        assert_eq!(table(" ORDER BY a"), None);
        assert_eq!(table(""), None);
        assert_eq!(table("JOIN o ON o.id = 1"), Some("\"users\""));
        assert_eq!(table("/* all */ left join o ON true"), Some("\"users\""));
        assert_eq!(table(", o WHERE true"), Some("\"users\""));
        assert_eq!(table("u JOIN o ON o.id = u.id"), Some("u"));
        assert_eq!(table("AS \"U\" WHERE true"), Some("\"U\""));
        assert_eq!(table("\"U\", o WHERE true"), Some("\"U\""));
    }

    #[test]
    fn a_locking_clause_is_distinguished_from_other_uses_of_for() {
        assert!(clause("WHERE a LIMIT 1 FOR UPDATE SKIP LOCKED").locks());
        assert!(clause("WHERE a for no key update").locks());
        assert!(!clause("WHERE substring(a FOR 3) = 'FOR UPDATE'").locks());
        assert!(!clause("WHERE id IN (SELECT 1 FOR UPDATE)").locks());
    }

    #[test]
    fn a_window_is_found_where_a_clause_orders_by_it() {
        for text in [
            "ORDER BY row_number() OVER (PARTITION BY a)",
            "WHERE a ORDER BY coalesce(rank() over w, 0) LIMIT 1",
        ] {
            assert!(clause(text).is_derived(), "{text}");
        }
        for text in [
            "WHERE id IN (SELECT max(id) OVER () FROM t) ORDER BY id",
            "ORDER BY overdue, 'OVER'",
            "ORDER BY t.over",
        ] {
            assert!(!clause(text).is_derived(), "{text}");
        }
    }

    #[test]
    fn a_clause_is_split_at_its_condition() {
        let parts = |text| {
            let Parts { head, condition, tail } = clause(text).parts();
            (head, condition, tail.text)
        };
        assert_eq!(parts(""), ("", None, ""));
        assert_eq!(parts("WHERE a"), ("", Some(" a"), ""));
        assert_eq!(parts("ORDER BY a"), ("", None, "ORDER BY a"));
        assert_eq!(
            parts("u JOIN o ON o.id = u.id WHERE a = 'ORDER BY' -- LIMIT\nORDER BY b LIMIT 1"),
            ("u JOIN o ON o.id = u.id ", Some(" a = 'ORDER BY' -- LIMIT\n"), "ORDER BY b LIMIT 1")
        );
        assert_eq!(
            parts("WHERE (SELECT 1 WHERE b) FOR UPDATE"),
            ("", Some(" (SELECT 1 WHERE b) "), "FOR UPDATE")
        );
        assert!(!clause("FOR NO KEY UPDATE").is_ordered_or_grouped());
        assert!(clause("ORDER BY a FOR UPDATE").is_ordered_or_grouped());
    }

    #[test]
    fn some_clauses_need_every_column() {
        for text in [
            "WHERE a UNION SELECT * FROM t",
            "GROUP BY a HAVING b UNION SELECT c",
            "ORDER BY 2",
            "GROUP BY a ORDER BY b DESC, 3 LIMIT 1",
        ] {
            assert!(clause(text).needs_columns(), "{text}");
        }
        for text in [
            "",
            "WHERE a = 1",
            "ORDER BY a LIMIT 1",
            "ORDER BY a OFFSET 1",
            "ORDER BY a2",
            "ORDER BY a * 2, b - 1 DESC",
            "GROUP BY a HAVING b > 1",
        ] {
            assert!(!clause(text).needs_columns(), "{text}");
        }
    }

    #[test]
    fn an_unterminated_token_extends_to_the_end() {
        for text in ["'", "\"", "$x$", "/* ", "--", "(", "$", "E'\\", "[", "window"] {
            for clause in [Postgres, Sqlite].map(|kind| Clause::new(kind, text)) {
                clause.is_condition();
                clause.table("t");
                clause.parts();
            }
        }
    }
}
