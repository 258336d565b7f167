//! What a program asks about an error: the predicates, and the errors in the chain of its causes.

use std::error::Error as StdError;

use sqlx::error::DatabaseError;

use super::{Error, Reason, chain, driver};

impl Error {
    /// Creates an error of the program's own ([`Error::Other`]).
    ///
    /// ```
    /// # use sqlx_signals::Error;
    /// assert_eq!(Error::other("out of stock").to_string(), "out of stock");
    /// ```
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// Finds an error of type `T` in the chain of causes, at any depth: for example an error that a receiver returned, also
    /// inside the errors of other receivers, of rows and of rolled-back transactions. If there are several, the outermost one
    /// is returned.
    ///
    /// An error that is wrapped with `#[error(transparent)]` is not part of the chain, so only its causes are found. An
    /// `anyhow::Error` hides the type of the error that it is created from. Return the error itself instead.
    ///
    /// ```
    /// use sqlx_signals::prelude::*;
    ///
    /// #[derive(Debug, PartialEq)]
    /// struct OutOfStock(i64);
    /// # impl std::fmt::Display for OutOfStock {
    /// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    /// #         write!(f, "{} items are missing", self.0)
    /// #     }
    /// # }
    /// # impl std::error::Error for OutOfStock {}
    ///
    /// #[derive(Model)]
    /// struct Item { id: Option<i64>, stock: i64 }
    ///
    /// #[receiver(pre_save, sender = Item)]
    /// fn check_stock(save: PreSave<'_, Item>) -> Result<(), OutOfStock> {
    ///     if save.instance.stock < 0 { Err(OutOfStock(-save.instance.stock)) } else { Ok(()) }
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// let db = Db::connect("sqlite::memory:").await?;
    /// let error = Item { id: None, stock: -3 }.save(&db).await.unwrap_err();
    /// assert_eq!(error.find::<OutOfStock>(), Some(&OutOfStock(3)));
    /// assert_eq!(error.to_string(), "could not save `Item`: receiver `check_stock`: 3 items are missing");
    /// # Ok(()) }
    /// ```
    pub fn find<T: StdError + 'static>(&self) -> Option<&T> {
        chain::of(self).find_map(chain::downcast)
    }

    /// Whether a unique or primary key constraint was violated.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)").await?;
    /// # let city = || City { id: None, name: "Ulm".into() };
    /// city().save(&db).await?;
    /// assert!(city().save(&db).await.unwrap_err().is_unique_violation());
    /// # Ok(()) }
    /// ```
    pub fn is_unique_violation(&self) -> bool {
        self.any_database(DatabaseError::is_unique_violation)
    }

    /// Whether a foreign key constraint was violated.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY);
    /// #     CREATE TABLE street (city_id INTEGER REFERENCES city)").await?;
    /// let error = db.execute("INSERT INTO street VALUES (7)").await.unwrap_err();
    /// assert!(error.is_foreign_key_violation());
    /// # Ok(()) }
    /// ```
    pub fn is_foreign_key_violation(&self) -> bool {
        self.any_database(DatabaseError::is_foreign_key_violation)
    }

    /// Whether a check constraint was violated.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (people INTEGER CHECK (people > 0))").await?;
    /// let error = db.execute("INSERT INTO city VALUES (-7)").await.unwrap_err();
    /// assert!(error.is_check_violation());
    /// # Ok(()) }
    /// ```
    pub fn is_check_violation(&self) -> bool {
        self.any_database(DatabaseError::is_check_violation)
    }

    /// Whether a row does not exist: [`Error::NotFound`] or sqlx's `RowNotFound`.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// assert!(City::get(&db, 7).await.err().unwrap().is_not_found());
    /// # Ok(()) }
    /// ```
    pub fn is_not_found(&self) -> bool {
        self.any(|e| matches!(e, Error::NotFound { .. }))
            || self.any_sqlx(|e| matches!(e, sqlx::Error::RowNotFound))
    }

    /// Whether the row has been written since it was read ([`Error::Stale`]). Read the row again before retrying.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model, Clone)]
    /// # struct Page { id: Option<i64>, title: String, #[model(version)] version: i32 }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE page (id INTEGER PRIMARY KEY, title TEXT NOT NULL, version INTEGER NOT NULL)").await?;
    /// # let mut mine = Page { id: None, title: "Ann".into(), version: 1 };
    /// # mine.save(&db).await?;
    /// let mut theirs = mine.clone();
    /// theirs.save(&db).await?;
    /// assert!(mine.save(&db).await.unwrap_err().is_stale());
    /// # Ok(()) }
    /// ```
    pub fn is_stale(&self) -> bool {
        self.any(|e| matches!(e, Error::Stale { .. }))
    }

    /// Whether a row was not deleted because a row of a model with `on_delete = restrict` refers to it
    /// ([`Error::Restricted`]). If the database itself rejects the delete, the error is a
    /// [`is_foreign_key_violation`](Self::is_foreign_key_violation).
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// #[derive(Model)]
    /// struct Street {
    ///     id: Option<i64>,
    ///     #[model(belongs_to = City, on_delete = restrict)]
    ///     city_id: i64,
    /// }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
    /// #     CREATE TABLE street (id INTEGER PRIMARY KEY, city_id INTEGER NOT NULL REFERENCES city)").await?;
    /// # let mut ulm = City { id: None, name: "Ulm".into() };
    /// # ulm.save(&db).await?;
    /// Street { id: None, city_id: ulm.id.unwrap() }.save(&db).await?;
    /// assert!(ulm.delete(&db).await.unwrap_err().is_restricted());
    /// # Ok(()) }
    /// ```
    pub fn is_restricted(&self) -> bool {
        self.any(|e| matches!(e, Error::Restricted { .. }))
    }

    /// Whether receivers triggered each other recursively, deeper than the limit.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// #[receiver(post_save, sender = City)]
    /// async fn save_again(saved: PostSave<'_, City>, conn: &mut Conn<'_>) -> Result<()> {
    ///     City { id: saved.instance.id, name: "again".into() }.save(conn).await?;
    ///     Ok(())
    /// }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let error = City { id: None, name: "Ulm".into() }.save(&db).await.unwrap_err();
    /// assert!(error.is_recursion());
    /// # Ok(()) }
    /// ```
    pub fn is_recursion(&self) -> bool {
        self.any(|e| matches!(e, Error::Recursion { .. }))
    }

    /// Whether a receiver used the pool whose connection its own transaction holds.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct City { id: Option<i64>, name: String }
    /// #[receiver(post_save, sender = City)]
    /// async fn count(_: PostSave<'_, City>, _conn: &mut Conn<'_>, State(db): State<Db>) -> Result<()> {
    ///     println!("{} cities", City::query("").count(&db).await?); // should use the connection
    ///     Ok(())
    /// }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE city (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    /// let db = db.with(db.clone());
    /// let error = City { id: None, name: "Ulm".into() }.save(&db).await.unwrap_err();
    /// assert!(error.is_use_the_receiver_connection());
    /// # Ok(()) }
    /// ```
    pub fn is_use_the_receiver_connection(&self) -> bool {
        self.any(|e| matches!(e, Error::WouldDeadlock { .. }))
    }

    /// Whether the transaction was rolled back although `commit()` was called ([`Error::RolledBack`]).
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// let mut tx = db.begin().await?;
    /// assert!(tx.execute("INSERT INTO nowhere VALUES (1)").await.is_err());
    /// assert!(tx.commit().await.unwrap_err().is_rolled_back());
    /// # Ok(()) }
    /// ```
    pub fn is_rolled_back(&self) -> bool {
        self.any(|e| matches!(e, Error::RolledBack { .. }))
            || chain::of(self).any(|e| e.is::<Reason>())
    }

    /// Whether Postgres aborted this transaction to resolve a deadlock (`40P01`). On SQLite, the same
    /// situation is an error for which [`is_busy`](Self::is_busy) is true.
    ///
    /// See the example of [`is_retryable`](Self::is_retryable), which includes this condition.
    pub fn is_deadlock(&self) -> bool {
        self.any_code(|code| code == "40P01")
    }

    /// Whether the transaction read data that another transaction has changed since: `40001` on Postgres, at the isolation levels
    /// REPEATABLE READ and SERIALIZABLE; `SQLITE_BUSY_SNAPSHOT` on SQLite, if a transaction that began with a read writes.
    ///
    /// See the example of [`is_retryable`](Self::is_retryable), which includes this condition.
    pub fn is_serialization_failure(&self) -> bool {
        self.any_code(|code| matches!(code, "40001" | "517"))
    }

    /// Whether a lock or a connection was not available in time: the lock of a SQLite database (`SQLITE_BUSY`,
    /// `SQLITE_LOCKED`: "database is locked", or [`Error::WriteLockTimedOut`]), a Postgres lock with `lock_timeout` or `NOWAIT` (`55P03`), a server connection
    /// (`53300`), or a connection of the pool ([`sqlx::Error::PoolTimedOut`]).
    ///
    /// See the example of [`is_retryable`](Self::is_retryable), which includes this condition.
    pub fn is_busy(&self) -> bool {
        self.any(|e| matches!(e, Error::WriteLockTimedOut { .. }))
            || self.any_sqlx(|e| matches!(e, sqlx::Error::PoolTimedOut))
            || self.any_code(|code| match code {
                "55P03" | "53300" => true,
                // The lowest byte of an extended SQLite code is the primary code
                // (https://www.sqlite.org/rescode.html); the codes of Postgres have five characters.
                code if code.len() < 5 => {
                    code.parse().is_ok_and(|code: u32| matches!(code & 0xff, 5 | 6))
                }
                _ => false,
            })
    }

    /// Whether the database rejected a prepared statement because a table has changed since it was prepared
    /// ([`Error::SchemaChanged`]).
    ///
    /// See the example of [`is_retryable`](Self::is_retryable), which includes this condition.
    pub fn is_schema_changed(&self) -> bool {
        self.any(|e| matches!(e, Error::SchemaChanged(_)))
            || self.database_error().is_some_and(driver::is_about_outdated)
    }

    /// Whether nothing is stored, and the whole transaction may succeed if it is run again from the beginning:
    /// [`is_deadlock`](Self::is_deadlock), [`is_serialization_failure`](Self::is_serialization_failure),
    /// [`is_busy`](Self::is_busy) or [`is_schema_changed`](Self::is_schema_changed), or if the write shared its `COMMIT` with other
    /// writes of a SQLite database, and one of them has ended the transaction. Always `false` if it is unknown whether something is
    /// stored ([`Error::CommitUnknown`]).
    ///
    /// An error in [`Committed::errors`](crate::Committed::errors) belongs to a transaction that is already stored: do not run
    /// that transaction again.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[derive(Model)]
    /// # struct Account { id: Option<i64>, balance: i64 }
    /// async fn pay(db: &Db, from: i64, to: i64) -> Result<()> {
    ///     loop {
    ///         let paid = db.transaction(async |tx| {
    ///             Account::query("WHERE id = $1").bind(from).set(Account::BALANCE, 0).update(&mut *tx).await?;
    ///             Account::query("WHERE id = $1").bind(to).set(Account::BALANCE, 100).update(tx).await
    ///         });
    ///         match paid.await {
    ///             Err(error) if error.is_retryable() => continue,
    ///             result => return result.map(drop),
    ///         }
    ///     }
    /// }
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// # db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)").await?;
    /// # pay(&db, 1, 2).await?;
    /// # Ok(()) }
    /// ```
    pub fn is_retryable(&self) -> bool {
        !self.any(|e| matches!(e, Error::CommitUnknown(_)))
            && (self.is_deadlock()
                || self.is_serialization_failure()
                || self.is_busy()
                || self.is_schema_changed()
                || self.any(
                    |e| matches!(e, Error::RolledBack { reason } if reason.is_of_another_write()),
                ))
    }

    /// The error of the database, if there is one in the chain of causes.
    ///
    /// In an [`Error::RolledBack`], it is a copy with the message, the code, the kind, and the names of the table and the
    /// constraint.
    ///
    /// ```
    /// # use sqlx_signals::prelude::*;
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let db = Db::connect("sqlite::memory:").await?;
    /// let error = db.execute("INSERT INTO nowhere VALUES (1)").await.unwrap_err();
    /// assert_eq!(error.database_error().unwrap().message(), "no such table: nowhere");
    /// # Ok(()) }
    /// ```
    pub fn database_error(&self) -> Option<&(dyn DatabaseError + 'static)> {
        chain::of(self).find_map(chain::database)
    }

    /// The same error with [`refused: false`](ReceiverError::refused): the receiver failed, but the operation succeeded.
    pub(crate) fn not_refused(mut self) -> Self {
        match &mut self {
            Self::Receiver(failed) => failed.refused = false,
            Self::Row { source, .. } => {
                if let Self::Receiver(failed) = &mut **source {
                    failed.refused = false;
                }
            }
            _ => {}
        }
        self
    }

    /// Whether Postgres rejected the statement only because an earlier statement of the transaction had failed.
    pub(crate) fn is_in_failed_transaction(&self) -> bool {
        self.any_code(|code| code == "25P02")
    }

    fn any(&self, test: impl Fn(&Error) -> bool) -> bool {
        chain::of(self).filter_map(chain::downcast).any(test)
    }

    fn any_sqlx(&self, test: impl Fn(&sqlx::Error) -> bool) -> bool {
        chain::of(self).filter_map(chain::downcast).any(test)
    }

    fn any_database(&self, test: impl Fn(&(dyn DatabaseError + 'static)) -> bool) -> bool {
        chain::of(self).filter_map(chain::database).any(test)
    }

    fn any_code(&self, test: impl Fn(&str) -> bool) -> bool {
        self.any_database(|e| e.code().is_some_and(|code| test(&code)))
    }
}
