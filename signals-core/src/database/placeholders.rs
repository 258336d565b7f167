//! Placeholders (`$1`) in SQL text.

use std::iter;

use crate::database::sql_tokens::{comment, dollar, is_word_char, quoted};

/// The tokens of SQL text. A placeholder, a string literal, a quoted name and a comment are one token each.
fn tokens(sql: &str) -> impl Iterator<Item = &str> {
    let mut rest = sql;
    iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = match first {
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment(rest),
            '"' | '`' | '\'' => quoted(rest.as_bytes(), false),
            '$' => dollar(rest),
            _ if is_word_char(first) => {
                let end = rest.find(|c| !is_word_char(c) && c != '$').unwrap_or(rest.len());
                match rest[..end].eq_ignore_ascii_case("e") && rest[end..].starts_with('\'') {
                    true => end + quoted(&rest.as_bytes()[end..], true),
                    false => end,
                }
            }
            other => other.len_utf8(),
        };
        let (token, after) = rest.split_at(end);
        rest = after;
        Some(token)
    })
}

/// The number of a placeholder (`$1`).
fn number(token: &str) -> Option<usize> {
    token.strip_prefix('$')?.parse().ok()
}

/// The highest number of a placeholder, or 0 if there is none.
pub(crate) fn highest(sql: &str) -> usize {
    if !sql.contains('$') {
        return 0;
    }
    tokens(sql).filter_map(number).max().unwrap_or_default()
}

/// Adds `by` to the number of each placeholder (`$1`), and returns the highest number before that. Text in string literals,
/// quoted names and comments is left unchanged.
pub(crate) fn renumber(sql: &str, by: usize) -> (String, usize) {
    let (mut renumbered, mut highest) = (String::with_capacity(sql.len() + 4), 0);
    for token in tokens(sql) {
        match number(token) {
            Some(number) => {
                highest = highest.max(number);
                renumbered.push_str(&format!("${}", number + by));
            }
            None => renumbered.push_str(token),
        }
    }
    (renumbered, highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_placeholders_are_renumbered() {
        assert_eq!(renumber("a - $1 * $2", 3), ("a - $4 * $5".to_owned(), 2));
        assert_eq!(renumber("$10", 1), ("$11".to_owned(), 10));
        assert_eq!((highest("a - $2 * $10"), highest("a = '$1' -- $2")), (10, 0));
        for unchanged in [
            "'$1'", "a$1", "\"$1\"", "-- $1", "/* $1 /* $1 */ $1 */", "$x$ $1 $x$", r"E'\' $1'",
            "'it''s $1'",
        ] {
            assert_eq!(renumber(unchanged, 1), (unchanged.to_owned(), 0));
        }
        assert_eq!(renumber("-- a\n$1", 1).0, "-- a\n$2");
        assert_eq!(renumber("$1 || 'ä' || $1", 1).0, "$2 || 'ä' || $2");
    }

    #[test]
    fn an_unterminated_token_extends_to_the_end() {
        for sql in ["'", "\"", "$x$", "/* ", "--", "(", "$", "E'\\"] {
            assert_eq!(renumber(sql, 1), (sql.to_owned(), 0));
        }
    }
}
