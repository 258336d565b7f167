//! Statements of writers that wait in the [`WriteQueue`](crate::database::write_queue::WriteQueue). The task that ends a group executes
//! them for their writers, and equal ones in one message to the thread of the connection: a small statement takes a few microseconds there,
//! and a message several times as long.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

use crate::database::backend::{Arguments, DatabaseKind, Statement};
use crate::database::placeholders::renumber;

/// The most statements of one message. Each connection keeps a text for each number of them prepared.
const MOST: usize = 8;

/// A statement that another task may execute, because it is all that the write consists of.
#[derive(Clone, Copy)]
pub(crate) struct Executable<'s> {
    pub(crate) sql: &'static str,
    /// Adds the arguments, which are as many for each row.
    pub(crate) bind: &'s (dyn Fn(&mut Arguments) -> Result<(), sqlx::Error> + Send + Sync),
}

/// The statement of a waiting writer: one of a batch.
#[derive(Clone, Debug)]
pub(super) struct QueuedStatement {
    batch: Arc<Batch>,
    /// Its place in the batch.
    index: usize,
}

/// Equal statements of writers that wait one behind the other.
#[derive(Debug)]
struct Batch {
    sql: &'static str,
    /// How many arguments a statement has.
    width: usize,
    arguments: Mutex<BatchArguments>,
}

/// The arguments of all statements of a batch. `None` if they have been sent, or while some are added.
struct BatchArguments(Option<Arguments>);

impl std::fmt::Debug for BatchArguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BatchArguments").field(&self.0.as_ref().map(Arguments::len)).finish()
    }
}

impl QueuedStatement {
    /// The first statement of a batch. Returns `None` if its arguments cannot be encoded, which the writer then finds out itself, or if it has
    /// none.
    pub(super) fn first(statement: Executable<'_>, texts: &Texts) -> Option<Self> {
        let mut arguments = Arguments::new(DatabaseKind::Sqlite);
        (statement.bind)(&mut arguments).ok()?;
        let width = texts.width(statement.sql);
        let fits = width > 0 && arguments.len() == width;
        let arguments = Mutex::new(BatchArguments(Some(arguments)));
        let batch = Batch { sql: statement.sql, width, arguments };
        fits.then(|| Self { batch: Arc::new(batch), index: 0 })
    }

    /// The next statement of the same batch. Returns `None` if it does not fit, or if the batch has ended.
    pub(super) fn next(&self, statement: Executable<'_>) -> Option<Self> {
        let (batch, index) = (&self.batch, self.index + 1);
        if !std::ptr::eq(batch.sql, statement.sql) || index == MOST {
            return None;
        }
        // Taken out, because `bind` runs code of the program, for which no lock may be held. If it panics, the writers of the batch execute their
        // statements themselves.
        let mut arguments = batch.arguments().0.take()?;
        // There are more if another writer has added a statement, or could not be added in the end.
        let fits = arguments.len() == index * batch.width;
        let is_bound = fits
            && (statement.bind)(&mut arguments).is_ok()
            && arguments.len() == (index + 1) * batch.width;
        batch.arguments().0 = Some(arguments);
        is_bound.then(|| Self { batch: Arc::clone(batch), index })
    }

    /// Whether the statement is the first one of its batch.
    pub(super) fn is_first(&self) -> bool {
        self.index == 0
    }

    /// Whether the statement is the next one of the batch of another one.
    pub(super) fn follows(&self, previous: &Self) -> bool {
        self.is_with(previous) && self.index == previous.index + 1
    }

    /// Whether the statement belongs to the same batch as another one.
    pub(super) fn is_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.batch, &other.batch)
    }

    /// The `count` statements of the batch that end with this one, with BEGIN and COMMIT around them if they are a transaction. Returns `None` if
    /// the arguments of the batch are not available.
    pub(super) fn take(
        &self,
        count: usize,
        in_transaction: bool,
        texts: &Texts,
    ) -> Option<Statement> {
        let Batch { sql, width, .. } = *self.batch;
        let arguments = self.batch.arguments().0.take()?;
        Some(match self.index + 1 - count {
            0 => {
                let sql = texts.of(sql, in_transaction, count);
                Statement::prepared(sql, arguments)
            }
            // The writers before them have left the queue, which is rare.
            first => {
                Statement::once(text(sql, in_transaction, width, first..first + count), arguments)
            }
        })
    }
}

impl Batch {
    fn arguments(&self) -> MutexGuard<'_, BatchArguments> {
        self.arguments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The texts of messages, which are composed once.
#[derive(Debug, Default)]
pub(super) struct Texts(Mutex<HashMap<&'static str, TextsOf>>);

/// The texts of messages of one statement, of two and so on.
#[derive(Debug)]
struct TextsOf {
    /// How many arguments a statement has.
    width: usize,
    plain: Vec<SqlStr>,
    in_transaction: Vec<SqlStr>,
}

impl Texts {
    fn width(&self, sql: &'static str) -> usize {
        self.with(sql, |texts| texts.width)
    }

    /// The text of `count` statements.
    fn of(&self, sql: &'static str, in_transaction: bool, count: usize) -> SqlStr {
        self.with(sql, |texts| {
            let known = if in_transaction { &mut texts.in_transaction } else { &mut texts.plain };
            while known.len() < count {
                let statements = 0..known.len() + 1;
                let text: Arc<str> = text(sql, in_transaction, texts.width, statements).into();
                known.push(AssertSqlSafe(text).into_sql_str());
            }
            known[count - 1].clone()
        })
    }

    fn with<T>(&self, sql: &'static str, read: impl FnOnce(&mut TextsOf) -> T) -> T {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read(texts.entry(sql).or_insert_with(|| TextsOf {
            width: renumber(sql, 0).1,
            plain: Vec::new(),
            in_transaction: Vec::new(),
        }))
    }
}

/// The text of some statements of a batch, each with `width` arguments.
fn text(sql: &str, in_transaction: bool, width: usize, statements: Range<usize>) -> String {
    let each: Vec<_> = statements.map(|index| renumber(sql, index * width).0).collect();
    let all = each.join("; ");
    if in_transaction { format!("BEGIN IMMEDIATE; {all}; COMMIT") } else { all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_a_message_are_numbered_through() {
        let (texts, sql) = (Texts::default(), "DELETE FROM t WHERE a = $1 AND b = $2");
        assert_eq!(texts.width(sql), 2);
        let three = texts.of(sql, false, 3);
        let second = "DELETE FROM t WHERE a = $3 AND b = $4";
        let third = "DELETE FROM t WHERE a = $5 AND b = $6";
        assert_eq!(three.as_str(), format!("{sql}; {second}; {third}"));
        let two = texts.of(sql, true, 2);
        assert_eq!(two.as_str(), format!("BEGIN IMMEDIATE; {sql}; {second}; COMMIT"));
        assert_eq!(texts.of(sql, false, 1).as_str(), sql);
    }
}
