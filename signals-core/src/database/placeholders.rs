//! Placeholders (`$1`) in SQL text.

use crate::database::sql_tokens::{comment, dollar, is_word_char, quoted};

/// Adds `by` to the number of each placeholder (`$1`), and returns the highest number before that. Text in string literals,
/// quoted names and comments is left unchanged.
pub(crate) fn renumber(sql: &str, by: usize) -> (String, usize) {
    let (mut rest, mut renumbered, mut highest) = (sql, String::with_capacity(sql.len() + 4), 0);
    while let Some(first) = rest.chars().next() {
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
        match token.strip_prefix('$').and_then(|number| number.parse::<usize>().ok()) {
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
