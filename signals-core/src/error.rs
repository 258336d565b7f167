use std::error::Error as StdError;

use crate::instances::Instances;

/// A boxed error, as a receiver may return it.
pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// `Result` with [`Error`] for its error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a save, a transaction or a query.
///
/// The variants tell who must act; what a program branches on has a predicate
/// ([`is_unique_violation`](Error::is_unique_violation), [`is_recursion`](Error::is_recursion), …), and the predicates
/// look through the errors of receivers to what caused them.
///
/// ```
/// use sqlx_signals::Error;
///
/// fn status(error: &Error) -> u16 {
///     match error {
///         Error::NotFound { .. } => 404,
///         e if e.is_unique_violation() => 409,
///         _ => 500,
///     }
/// }
/// assert_eq!(status(&Error::NotFound { model: "User", key: "7".into() }), 404);
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database, the driver or the pool refused.
    #[error(transparent)]
    Database(#[from] sqlx::Error),

    /// There is no such row.
    #[error("no such `{model}`: {key}")]
    NotFound {
        /// The name of the model.
        model: &'static str,
        /// The key, as `Debug` writes it; or the condition that nothing fits.
        key: String,
    },

    /// The row was written by somebody else since it was read: its version is another. Nothing was written.
    #[error("`{model}` {key} is stale: version {version} is not the stored one")]
    Stale {
        /// The name of the model.
        model: &'static str,
        /// The key, as `Debug` writes it.
        key: String,
        /// The version that the instance has.
        version: i64,
    },

    /// The row cannot be deleted, because a row of another model belongs to it that says `on_delete = restrict`.
    #[error("`{model}` {key} cannot be deleted: a `{by}` belongs to it")]
    Restricted {
        /// The name of the model.
        model: &'static str,
        /// The key, as `Debug` writes it.
        key: String,
        /// The name of the other model.
        by: &'static str,
    },

    /// Of several rows that are updated together, two have the same key. Nothing was written.
    #[error("`{model}` {key} is twice among the rows")]
    Twice {
        /// The name of the model.
        model: &'static str,
        /// The key, as `Debug` writes it.
        key: String,
    },

    /// One of several rows that are written together failed. Nothing of them is stored; why is the `source()`.
    #[error("row {row} of those to {verb}, `{model}` {key}")]
    Row {
        /// What was to be done with the rows: `insert`, `update` or `delete`.
        verb: &'static str,
        /// The name of the model.
        model: &'static str,
        /// Its place among the rows, from 0.
        row: usize,
        /// The key, as `Debug` writes it.
        key: String,
        /// Why.
        #[source]
        source: Box<Error>,
    },

    /// The database took the statement and stored nothing, as it does when a trigger or a policy swallows a row.
    #[error(
        "the database accepted the write of `{model}` and stored no row (a trigger, rule or policy?)"
    )]
    NotStored {
        /// The name of the model.
        model: &'static str,
    },

    /// A receiver returned an error or panicked. Its own error is the `source()`.
    #[error(transparent)]
    Receiver(Box<ReceiverError>),

    /// The transaction was rolled back although `commit()` was called, because something in it had failed before.
    #[error("the transaction was rolled back, because in it {reason}")]
    RolledBack {
        /// What had failed.
        reason: String,
    },

    /// The connection was lost while COMMIT was under way: the transaction may be stored or not. Neither the
    /// `on_commit` nor the `on_rollback` receivers have run.
    #[error("the connection was lost during COMMIT: whether the transaction is stored is unknown")]
    CommitUnknown(#[source] sqlx::Error),

    /// The model has `on_commit` or `on_rollback` receivers, and the save goes through a transaction of sqlx's own,
    /// whose end nobody can see.
    #[error(
        "`{model}` has receivers that wait for the commit (`{receiver}`), which cannot be seen through a plain \
         `sqlx::Transaction`; begin the transaction with `Db::begin`"
    )]
    CommitNotObservable {
        /// The name of the model.
        model: &'static str,
        /// One of the receivers that would not have run.
        receiver: &'static str,
    },

    /// Receivers that save what makes them run again, deeper than the limit.
    #[error("receivers save in a circle, {limit} levels deep: {chain}")]
    Recursion {
        /// The models and receivers, outermost first.
        chain: String,
        /// The limit, see [`Registry::set_recursion_limit`](crate::Registry::set_recursion_limit).
        limit: usize,
    },

    /// An in-transaction receiver went to the pool whose connection its own save holds, and would have waited for
    /// itself.
    #[error(
        "receiver `{receiver}` used the `Db` or pool of the transaction that it runs in, and would wait for itself; \
         take `conn: &mut Conn<'_>` and use that"
    )]
    UseTheReceiverConnection {
        /// The receiver.
        receiver: &'static str,
    },

    /// In a [`testing::transaction`](crate::testing::transaction), what waits for the commit used the `Db` or pool of the
    /// transaction, which is open, and whose rows no other connection sees.
    #[error(
        "{receiver} used the `Db` or pool of a transaction whose commit is only rehearsed: no other connection sees its \
         rows, and might wait for it; test this with a commit"
    )]
    OnlyRehearsed {
        /// The receiver, or that it is a callback.
        receiver: &'static str,
    },

    /// A receiver was asked for that is not linked into this program.
    #[error("receiver `{receiver}` is not registered in this program: is its crate linked?")]
    NotLinked {
        /// The path of the receiver's type.
        receiver: &'static str,
    },

    /// What [`Db::check`](crate::Db::check) found.
    #[error("the program is not as it should be:{}", findings.iter().map(|f| format!("\n- {f}")).collect::<String>())]
    Check {
        /// Each thing that was found, a sentence each.
        findings: Vec<String>,
    },

    /// An error of the program's own, to leave [`Db::transaction`](crate::Db::transaction) with.
    #[error(transparent)]
    Other(BoxError),
}

/// Which receiver failed, where it stands, and why.
#[derive(Debug, thiserror::Error)]
#[error("receiver `{receiver}` of `{signal}` for `{sender}` failed ({file}:{line})")]
#[non_exhaustive]
pub struct ReceiverError {
    /// The receiver's path.
    pub receiver: &'static str,
    /// The signal's name.
    pub signal: &'static str,
    /// The model's name.
    pub sender: &'static str,
    /// The source file of the receiver.
    pub file: &'static str,
    /// The line in that file.
    pub line: u32,
    /// What it returned or panicked with.
    #[source]
    pub source: BoxError,
}

/// The message of a panic, as the source of an [`Error::Receiver`].
#[derive(Debug, thiserror::Error)]
#[error("panicked: {0}")]
pub(crate) struct Panicked(pub(crate) String);

impl Panicked {
    pub(crate) fn new(payload: Box<dyn std::any::Any + Send>) -> Self {
        let message = match payload.downcast::<String>() {
            Ok(message) => *message,
            Err(payload) => match payload.downcast::<&'static str>() {
                Ok(message) => (*message).to_owned(),
                Err(_) => "a value that is not a string".to_owned(),
            },
        };
        Self(message)
    }
}

impl Error {
    /// An error of the program's own.
    ///
    /// ```
    /// # use sqlx_signals::Error;
    /// assert_eq!(Error::other("out of stock").to_string(), "out of stock");
    /// ```
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// Whether a unique or primary key was already taken.
    pub fn is_unique_violation(&self) -> bool {
        self.database_error().is_some_and(|e| e.is_unique_violation())
    }

    /// Whether a foreign key was violated.
    pub fn is_foreign_key_violation(&self) -> bool {
        self.database_error().is_some_and(|e| e.is_foreign_key_violation())
    }

    /// Whether a check constraint was violated.
    pub fn is_check_violation(&self) -> bool {
        self.database_error().is_some_and(|e| e.is_check_violation())
    }

    /// Whether a row was not there: [`Error::NotFound`] or sqlx's `RowNotFound`.
    pub fn is_not_found(&self) -> bool {
        self.any(|e| {
            matches!(e, Error::NotFound { .. } | Error::Database(sqlx::Error::RowNotFound))
        })
    }

    /// Whether the row was written by somebody else since it was read.
    pub fn is_stale(&self) -> bool {
        self.any(|e| matches!(e, Error::Stale { .. }))
    }

    /// Whether a row was not deleted because another one belongs to it, as the model says. The database's own say is
    /// [`is_foreign_key_violation`](Self::is_foreign_key_violation).
    pub fn is_restricted(&self) -> bool {
        self.any(|e| matches!(e, Error::Restricted { .. }))
    }

    /// Whether receivers saved in a circle.
    pub fn is_recursion(&self) -> bool {
        self.any(|e| matches!(e, Error::Recursion { .. }))
    }

    /// Whether a receiver used the pool of its own transaction.
    pub fn is_use_the_receiver_connection(&self) -> bool {
        self.any(|e| matches!(e, Error::UseTheReceiverConnection { .. }))
    }

    /// Whether the transaction was rolled back although its commit was asked for.
    pub fn is_rolled_back(&self) -> bool {
        self.any(|e| matches!(e, Error::RolledBack { .. }))
    }

    /// The database's own error, where there is one.
    pub fn database_error(&self) -> Option<&(dyn sqlx::error::DatabaseError + 'static)> {
        self.chain().find_map(|e| match e.downcast_ref::<Error>() {
            Some(Error::Database(e)) => e.as_database_error(),
            _ => e.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error),
        })
    }

    /// Says which of several rows it was.
    pub(crate) fn of_row(
        verb: &'static str,
        rows: &dyn Instances,
        row: usize,
        error: Self,
    ) -> Self {
        let (model, key) = (rows.model(), rows.key(row));
        Self::Row { verb, model, row, key, source: Box::new(error) }
    }

    /// This error and its causes, in one line.
    pub(crate) fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            // A transparent error says what its cause says.
            let said = error.to_string();
            if !text.ends_with(&said) {
                text = format!("{text}: {said}");
            }
            cause = error.source();
        }
        text
    }

    fn any(&self, test: impl Fn(&Error) -> bool) -> bool {
        self.chain().any(|e| e.downcast_ref::<Error>().is_some_and(&test))
    }

    /// This error, then what caused it, through the errors of receivers.
    fn chain(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let first: &(dyn StdError + 'static) = self;
        std::iter::successors(Some(first), |&e| match e.downcast_ref::<Error>() {
            // Transparent variants hide themselves from `source`; what they hold counts as a link of its own.
            Some(Error::Database(inner)) => Some(inner as _),
            Some(Error::Other(inner)) => Some(&**inner as _),
            // Its `source` is the box, which is none of ours.
            Some(Error::Row { source, .. }) => Some(&**source as _),
            _ => e.source(),
        })
    }
}
