//! The tokens of the SQL that a query has after `FROM table`.

use crate::database::backend::DatabaseKind;
use crate::database::sql_tokens::{comment, dollar, is_word_char, quoted};

/// Keywords that can follow a condition on PostgreSQL, but are names on SQLite, which does not reserve them: FETCH and FOR begin no clause
/// there, and OFFSET only follows LIMIT (<https://www.sqlite.org/lang_keywords.html>).
const NAMES_OF_SQLITE: [&str; 3] = ["OFFSET", "FETCH", "FOR"];

/// A token of a clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'c> {
    Word(&'c str),
    /// A quoted identifier, with its quotes, or a word that can only be a name.
    Quoted(&'c str),
    Comma,
    Other,
}

impl<'c> Token<'c> {
    pub(super) fn is_word(self, among: &[&str]) -> bool {
        matches!(self, Self::Word(word) if among.iter().any(|other| word.eq_ignore_ascii_case(other)))
    }

    pub(super) fn name(self) -> Option<&'c str> {
        match self {
            Self::Word(name) | Self::Quoted(name) => Some(name),
            Self::Comma | Self::Other => None,
        }
    }
}

/// Iterates over the tokens outside of comments and string literals, and outside of parentheses unless `nested`.
pub(super) struct Tokens<'c> {
    /// The text after the last token.
    pub(super) text: &'c str,
    kind: DatabaseKind,
    depth: usize,
    /// Whether tokens in parentheses are returned too.
    nested: bool,
}

impl<'c> Iterator for Tokens<'c> {
    type Item = Token<'c>;

    fn next(&mut self) -> Option<Token<'c>> {
        let is_sqlite = self.kind == DatabaseKind::Sqlite;
        loop {
            self.text = self.text.trim_start();
            let first = self.text.chars().next()?;
            let token = match first {
                '[' if is_sqlite => {
                    Token::Quoted(self.take(self.text.find(']').map_or(self.text.len(), |e| e + 1)))
                }
                '(' | '[' => {
                    self.depth += 1;
                    self.take(1);
                    Token::Other
                }
                ')' | ']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.take(1);
                    continue;
                }
                '-' if self.text.starts_with("--") => {
                    self.take(self.text.find('\n').unwrap_or(self.text.len()));
                    continue;
                }
                '/' if self.text.starts_with("/*") => {
                    // Comments of SQLite contain no others.
                    let end = || self.text[2..].find("*/").map_or(self.text.len(), |end| end + 4);
                    self.take(if is_sqlite { end() } else { comment(self.text) });
                    continue;
                }
                '"' | '`' => Token::Quoted(self.take(quoted(self.text.as_bytes(), false))),
                '\'' => {
                    self.take(quoted(self.text.as_bytes(), false));
                    Token::Other
                }
                // The name after a dot is never a keyword.
                '.' => {
                    self.take(1);
                    self.text = self.text.trim_start();
                    self.take_word();
                    Token::Other
                }
                '$' => {
                    self.take(dollar(self.text));
                    Token::Other
                }
                _ if is_word_char(first) => {
                    let word = self.take_word();
                    if word.eq_ignore_ascii_case("e") && self.text.starts_with('\'') {
                        self.take(quoted(self.text.as_bytes(), true));
                        Token::Other
                    } else if is_sqlite && self.is_name(word) {
                        Token::Quoted(word)
                    } else {
                        Token::Word(word)
                    }
                }
                ',' => {
                    self.take(1);
                    Token::Comma
                }
                other => {
                    self.take(other.len_utf8());
                    Token::Other
                }
            };
            let opened = usize::from(first == '(' || first == '[' && !is_sqlite);
            if self.nested || self.depth == opened {
                return Some(token);
            }
        }
    }
}

impl<'c> Tokens<'c> {
    pub(super) fn of(kind: DatabaseKind, text: &'c str, nested: bool) -> Self {
        Self { text, kind, depth: 0, nested }
    }

    fn take(&mut self, end: usize) -> &'c str {
        let (taken, rest) = self.text.split_at(end);
        self.text = rest;
        taken
    }

    fn take_word(&mut self) -> &'c str {
        let is_end = |c: char| !is_word_char(c) && c != '$';
        self.take(self.text.find(is_end).unwrap_or(self.text.len()))
    }

    /// SQLite: whether the word, which was just taken, can only be a name. WINDOW is one unless a name and AS follow it.
    fn is_name(&self, word: &str) -> bool {
        let word = Token::Word(word);
        if word.is_word(&["WINDOW"]) {
            // Of PostgreSQL, so that the words that follow are not looked up in turn.
            let (text, kind) = (self.text, DatabaseKind::Postgres);
            let mut rest = Tokens { text, kind, depth: 0, nested: true };
            let (name, after) = (rest.next(), rest.next());
            let is_clause = name.is_some_and(|name| name.name().is_some())
                && after.is_some_and(|after| after.is_word(&["AS"]));
            return !is_clause;
        }
        word.is_word(&NAMES_OF_SQLITE)
    }
}
