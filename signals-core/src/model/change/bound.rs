//! The statement of an update or delete by condition, with its arguments.

use sqlx::{AssertSqlSafe, SqlSafeStr};

use crate::database::backend::{Arguments, Statement};

/// A statement with its arguments. Boxed, because it is part of the future of every caller.
#[derive(Clone)]
pub(super) struct Bound {
    pub(super) sql: String,
    /// PostgreSQL: the types of an update's arguments, as a comment. sqlx identifies a prepared statement by its text alone, so
    /// updates with other argument types need another text.
    pub(super) types: String,
    pub(super) args: Arguments,
    /// The columns set to a value that the field might store in another form, each with the number of its value.
    pub(super) foreign: Vec<(usize, usize)>,
}

impl Bound {
    pub(super) fn statement(self) -> Statement {
        let sql = AssertSqlSafe(self.sql + &self.types).into_sql_str();
        Statement { sql, args: self.args, persistent: true, is_single: false }
    }

    /// A copy for a second attempt, as [`Statement::again`].
    pub(super) fn again(&self) -> Option<Box<Self>> {
        match self.args {
            #[cfg(feature = "postgres")]
            Arguments::Postgres(_) => Some(Box::new(self.clone())),
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(_) => None,
        }
    }
}
