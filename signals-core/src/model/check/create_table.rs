//! What the text of a CREATE TABLE of SQLite contains.

use crate::database::sql_tokens::quoted;

pub(super) const WITHOUT_ROWID: &str = "WITHOUT ROWID";

/// What a CREATE TABLE of SQLite contains that the other fields of [`Table`](super::table::Table) do not describe.
pub(super) fn lost(create: &str) -> Vec<&'static str> {
    let create = create.to_ascii_uppercase();
    let words = create.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    let known = ["CHECK", "COLLATE", "AUTOINCREMENT", "DEFERRABLE", "CONFLICT", "STRICT"];
    let mut lost: Vec<_> = known.into_iter().filter(|word| words.contains(word)).collect();
    lost.extend(words.windows(2).any(|two| two == ["WITHOUT", "ROWID"]).then_some(WITHOUT_ROWID));
    lost
}

/// Whether a CREATE TABLE of SQLite has a CHECK that is the NOT NULL of a column.
pub(super) fn has_check(create: &str, column: &str) -> bool {
    plain(create).contains(&format!("CHECK({}ISNOTNULL)", column.to_ascii_uppercase()))
}

/// The SQL in upper case, without spaces, comments, strings and the quotes of names.
fn plain(sql: &str) -> String {
    let (mut plain, mut rest) = (String::new(), sql);
    while let Some(c) = rest.chars().next() {
        let until = |end: &str| rest[1..].find(end).map_or(rest.len(), |at| 1 + at + end.len());
        let (length, kept) = match c {
            '-' if rest.starts_with("--") => (until("\n"), ""),
            '/' if rest.starts_with("/*") => {
                (rest[2..].find("*/").map_or(rest.len(), |at| at + 4), "")
            }
            '\'' => (quoted(rest.as_bytes(), false), ""),
            '"' | '`' => {
                let length = quoted(rest.as_bytes(), false);
                (length, rest[1..length].trim_end_matches(c))
            }
            '[' => (until("]"), rest[1..until("]")].trim_end_matches(']')),
            c => (c.len_utf8(), rest[..c.len_utf8()].trim()),
        };
        plain += &kept.to_ascii_uppercase();
        rest = &rest[length..];
    }
    plain
}
