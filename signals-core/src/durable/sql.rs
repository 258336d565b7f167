//! Runs the statements of this layer. Their texts are fixed, so they stay prepared.

use sqlx::error::BoxDynError;
use uuid::Uuid;

use crate::database::backend::{AnyRow, Arguments, DatabaseKind, Statement, on};
use crate::database::conn::Conn;
use crate::database::sql::{Row, Value};
use crate::error::Result;
use crate::task::intern::interned;

/// A statement with its arguments.
pub(super) struct Sql {
    text: &'static str,
    args: Result<Arguments, BoxDynError>,
}

impl Sql {
    /// The statement of this text, of which there must be a small number of different ones.
    pub(super) fn new(kind: DatabaseKind, text: &str) -> Self {
        Self { text: interned(text), args: Ok(Arguments::new(kind)) }
    }

    pub(super) fn bind<'q>(mut self, value: impl Value<'q>) -> Self {
        self.args = self.args.and_then(|mut args| {
            on!(Arguments, &mut args, args => sqlx::Arguments::add(args, value)?);
            Ok(args)
        });
        self
    }

    /// The arguments, to bind values of one database.
    #[cfg(feature = "postgres")]
    pub(super) fn args(&mut self) -> Option<&mut Arguments> {
        self.args.as_mut().ok()
    }

    /// Makes the execution return this error.
    pub(super) fn fail(&mut self, error: BoxDynError) {
        self.args = Err(error);
    }

    fn statement(self) -> Result<Statement> {
        Ok(Statement::fixed(self.text, self.args.map_err(sqlx::Error::Encode)?))
    }

    pub(super) async fn execute(self, conn: &mut Conn<'_>) -> Result<u64> {
        conn.run(self.statement()?, &mut |_| ()).await
    }

    pub(super) async fn fetch<R: Row>(self, conn: &mut Conn<'_>) -> Result<Vec<R>> {
        let mut rows = Vec::new();
        conn.run_each(self.statement()?, &mut |row| {
            rows.push(on!(AnyRow, &row, row => R::from_row(row))?);
            Ok(())
        })
        .await?;
        Ok(rows)
    }
}

/// A subquery of the texts in an argument, which is a JSON array.
pub(super) fn texts(kind: DatabaseKind, argument: &str) -> String {
    match kind {
        DatabaseKind::Sqlite => format!("SELECT value FROM json_each({argument})"),
        DatabaseKind::Postgres => {
            format!("SELECT json_array_elements_text({argument}::text::json)")
        }
    }
}

/// Integers as one argument: an array literal on PostgreSQL, and JSON on SQLite.
pub(super) fn list(kind: DatabaseKind, values: impl Iterator<Item = i64>) -> String {
    let values = values.map(|value| value.to_string()).collect::<Vec<_>>().join(",");
    match kind {
        DatabaseKind::Sqlite => format!("[{values}]"),
        DatabaseKind::Postgres => format!("{{{values}}}"),
    }
}

/// The namespace of UUIDs that are made of a text, a random UUID.
pub(super) const NAMESPACE: Uuid = Uuid::from_u128(0x2f1d_98c4_37aa_4b0e_8a4c_51f0_63d2_7be9);

/// The longest text that is stored as it is in an index, in bytes.
const LONGEST: usize = 1000;

/// A text as an index can store it. PostgreSQL refuses an index entry of more than 2.7 kB, so a longer text is replaced by its hash.
pub(super) fn indexed(text: &str) -> String {
    if text.len() > LONGEST {
        return Uuid::new_v5(&NAMESPACE, text.as_bytes()).to_string();
    }
    without_nul(text)
}

/// The text as PostgreSQL can store it: without NUL.
pub(super) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
