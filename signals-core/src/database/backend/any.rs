//! The statement, its arguments and its rows, without the type of the database.

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr, TypeInfo};

use crate::database::backend::{DatabaseKind, Take, on};

/// The arguments of a statement, for one of the databases.
#[derive(Debug, Clone)]
pub enum Arguments {
    #[cfg(feature = "sqlite")]
    #[doc(hidden)]
    Sqlite(sqlx::sqlite::SqliteArguments),
    #[cfg(feature = "postgres")]
    #[doc(hidden)]
    Postgres(sqlx::postgres::PgArguments),
}

impl Arguments {
    pub(crate) fn len(&self) -> usize {
        on!(Self, self, args => sqlx::Arguments::len(args))
    }

    pub(crate) fn new(kind: DatabaseKind) -> Self {
        match kind {
            #[cfg(feature = "sqlite")]
            DatabaseKind::Sqlite => Self::Sqlite(Default::default()),
            #[cfg(feature = "postgres")]
            DatabaseKind::Postgres => Self::Postgres(Default::default()),
            #[cfg(not(all(feature = "sqlite", feature = "postgres")))]
            other => unreachable!("{other:?} is not a feature of this build"),
        }
    }
}

/// A [`Take`] for one of the databases.
pub enum AnyTake<'t> {
    #[cfg(feature = "sqlite")]
    #[doc(hidden)]
    Sqlite(Take<'t, sqlx::Sqlite>),
    #[cfg(feature = "postgres")]
    #[doc(hidden)]
    Postgres(Take<'t, sqlx::Postgres>),
}

/// A row of one of the databases.
pub enum AnyRow {
    #[cfg(feature = "sqlite")]
    #[doc(hidden)]
    Sqlite(sqlx::sqlite::SqliteRow),
    #[cfg(feature = "postgres")]
    #[doc(hidden)]
    Postgres(sqlx::postgres::PgRow),
}

/// A type of one of the databases.
pub enum AnyType {
    #[cfg(feature = "sqlite")]
    #[doc(hidden)]
    Sqlite(sqlx::sqlite::SqliteTypeInfo),
    #[cfg(feature = "postgres")]
    #[doc(hidden)]
    Postgres(sqlx::postgres::PgTypeInfo),
}

impl AnyType {
    pub(crate) fn name(&self) -> &str {
        on!(Self, self, ty => ty.name())
    }
}

/// A statement with its arguments.
#[allow(unreachable_pub)]
pub struct Statement {
    pub(crate) sql: SqlStr,
    pub(crate) args: Arguments,
    /// Whether the statement stays prepared on the connection.
    pub(crate) persistent: bool,
    /// Whether the text is certainly a single statement, because no part of it comes from the application.
    pub(crate) is_single: bool,
}

impl Statement {
    /// A statement with a fixed text, which stays prepared.
    pub(crate) fn fixed(sql: &'static str, args: Arguments) -> Self {
        Self::prepared(SqlStr::from_static(sql), args)
    }

    /// A single statement, which stays prepared.
    pub(crate) fn prepared(sql: SqlStr, args: Arguments) -> Self {
        Self { sql, args, persistent: true, is_single: true }
    }

    /// A copy for a second attempt on a PostgreSQL connection: it may reject the statement as outdated if it stays prepared, or turn out to be
    /// dead.
    pub(crate) fn again(&self) -> Option<Self> {
        match &self.args {
            #[cfg(feature = "postgres")]
            Arguments::Postgres(args) => Some(Self {
                sql: self.sql.clone(),
                args: Arguments::Postgres(args.clone()),
                persistent: self.persistent,
                is_single: self.is_single,
            }),
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(_) => None,
        }
    }

    /// Whether the statement has no name on a PostgreSQL connection, although others have.
    pub(crate) fn may_lose_its_name(&self) -> bool {
        match &self.args {
            #[cfg(feature = "postgres")]
            Arguments::Postgres(_) => !self.persistent,
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(_) => false,
        }
    }

    /// A statement whose text is unlikely to occur again, so it does not stay prepared.
    pub(crate) fn once(sql: String, args: Arguments) -> Self {
        Self { sql: AssertSqlSafe(sql).into_sql_str(), args, persistent: false, is_single: false }
    }

    /// Adds arguments.
    pub(crate) fn with_texts(mut self, texts: &[&str]) -> Result<Self, sqlx::Error> {
        for text in texts {
            let text = (*text).to_owned();
            let added = on!(Arguments, &mut self.args, args => sqlx::Arguments::add(args, text));
            added.map_err(sqlx::Error::Encode)?;
        }
        Ok(self)
    }
}

/// Receives the rows of a statement.
pub(crate) type Sink<'s> = &'s mut (dyn FnMut(AnyRow) + Send);

/// Builds a statement. Called once for each connection on which the statement is tried.
pub(crate) type Make<'m> =
    &'m (dyn Fn(DatabaseKind) -> Result<Statement, sqlx::Error> + Send + Sync);
