//! What a `sqlx::Error` says about the failed statement and its connection.

use sqlx::error::DatabaseError;
#[cfg(feature = "postgres")]
use sqlx::postgres::{PgDatabaseError, PgSeverity};

/// Whether the database has answered and the connection is still usable.
pub(crate) fn is_answered<T>(done: &Result<T, sqlx::Error>) -> bool {
    match done {
        Ok(_) => true,
        Err(sqlx::Error::Database(error)) => !has_hung_up(&**error),
        Err(_) => false,
    }
}

/// Whether a statement that failed with this error certainly had no effect: it was never sent, or the server closed the
/// connection instead of completing it ([57P01, 57P05](https://www.postgresql.org/docs/current/errcodes-appendix.html)).
pub(crate) fn did_nothing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            has_hung_up(&**error) && matches!(error.code().as_deref(), Some("57P01" | "57P05"))
        }
        error => was_never_sent(error),
    }
}

/// Whether a statement that commits may have been committed, although it failed with this error. It was not if the database has
/// reported the error, or if the statement was never sent. `answered`: whether the database had reported its completion before.
pub(crate) fn may_be_committed(error: &sqlx::Error, answered: bool) -> bool {
    use sqlx::Error as E;
    match error {
        // A server that hangs up before the completion has rolled back. With other codes, a pooler reports that it has lost its
        // connection to the server, or the server that it could not write its log.
        E::Database(error) => {
            // PgBouncer has found no server for the statement.
            has_hung_up(&**error)
                && !error.message().contains("query_wait_timeout")
                && (answered
                    || !matches!(
                        error.code().as_deref(),
                        Some("57P01" | "57P05" | "25P03" | "25P04")
                    ))
        }
        // Not sent: the arguments are refused, a type is not found in the catalog, or there is no connection.
        E::Encode(_)
        | E::InvalidArgument(_)
        | E::TypeNotFound { .. }
        | E::RowNotFound
        | E::ColumnNotFound(_)
        | E::ColumnIndexOutOfBounds { .. }
        | E::ColumnDecode { .. }
        | E::Decode(_)
        | E::PoolTimedOut
        | E::PoolClosed => false,
        // There is no other sign that sqlx has refused the statement itself.
        E::Protocol(message) => !message.contains("too many arguments"),
        error => !was_never_sent(error),
    }
}

/// Whether a prepared statement was rejected before it had any effect, because it is outdated: a table or a type has changed
/// since the statement was prepared, or the server no longer has the statement
/// ([`RevalidateCachedQuery`](https://github.com/postgres/postgres/blob/REL_17_STABLE/src/backend/utils/cache/plancache.c)).
pub(crate) fn is_outdated(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if is_about_outdated(&**error))
}

/// Like [`is_outdated`], for a database error.
pub(crate) fn is_about_outdated(error: &dyn DatabaseError) -> bool {
    match error.code().as_deref() {
        Some("0A000") => {
            // The message depends on the language of the server; the name of the routine does not.
            #[cfg(feature = "postgres")]
            if let Some(error) = error.try_downcast_ref::<PgDatabaseError>()
                && error.routine() == Some("RevalidateCachedQuery")
            {
                return true;
            }
            error.message() == "cached plan must not change result type"
        }
        Some("26000") => true,
        Some("XX000") => error.message().starts_with("cache lookup failed for type"),
        _ => false,
    }
}

/// Whether PostgreSQL has refused a row for a reason that the class of the error code does not tell: because of a policy for
/// row-level security, or because a trigger has raised an error with a code of its choice. Class 40 asks for the transaction to be
/// run again.
pub(crate) fn is_refused_row(
    #[cfg_attr(not(feature = "postgres"), expect(unused_variables))] error: &dyn DatabaseError,
) -> bool {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return match error.routine() {
            Some("ExecWithCheckOptions") => true,
            Some("exec_stmt_raise") => !error.code().starts_with("40"),
            _ => false,
        };
    }
    false
}

/// Whether the connection leads to a server or a file that cannot be written any more, and a new connection may lead to another one: a
/// server that has become a standby, or a file that was renamed or deleted (SQLITE_READONLY_DBMOVED).
pub(crate) fn is_superseded(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("25006" | "1032"))
}

/// Whether the connection was lost, before the statement was sent or while it was executed.
pub(crate) fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => has_hung_up(&**error),
        error => matches!(error, sqlx::Error::Io(_)),
    }
}

/// Whether the statement cannot have reached the server: writing to the connection failed.
pub(crate) fn was_never_sent(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Whether the server closes the connection after this error.
pub(crate) fn has_hung_up(
    #[cfg_attr(not(feature = "postgres"), expect(unused_variables))] error: &dyn DatabaseError,
) -> bool {
    #[cfg(feature = "postgres")]
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
    }
    false
}
