//! SQLite: types, comparisons and pools.

use std::io::Write;
use std::str::FromStr;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::encode::IsNull;
use sqlx::error::{BoxDynError, UnexpectedNullError, mismatched_types};
use sqlx::sqlite::{
    SqliteArgumentsBuffer, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions,
    SqliteQueryResult, SqliteRow, SqliteTypeInfo, SqliteValueRef,
};
use sqlx::{
    Decode, Encode, Row, SqlSafeStr, Sqlite, SqliteConnection, SqlitePool, Type, TypeInfo, ValueRef,
};
use tokio::time::sleep;

use super::{AnyRow, AnyTake, AnyType, Arguments, Backend, Bindable, DatabaseKind, Take, variants};
use crate::database::conn::Conn;
use crate::database::connect;
use crate::database::lease::{AnyLease, Lease};
use crate::database::options::DbOptions;
use crate::database::raw::RawConn;
use crate::error::{Error, Result};

/// How long a statement waits for the lock of another connection.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait until a file is opened again that another connection has locked. SQLite does not apply the busy timeout while the
/// journal mode is changed, as by all processes that open a new file.
const SWITCH_PAUSE: Duration = Duration::from_millis(10);

/// How many rows the thread of a connection fetches in advance. If it had to wait after each row, reading would take twice as
/// long.
const ROW_BUFFER: usize = 1024;

impl Backend for Sqlite {
    const KIND: DatabaseKind = DatabaseKind::Sqlite;
    // Each connection has its own thread.
    const NEEDS_RUNTIME: bool = false;
    const ASK: &'static str = "SELECT 1";

    fn simple(
        conn: &mut SqliteConnection,
        sql: impl SqlSafeStr,
    ) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        let sql = sqlx::raw_sql(sql);
        Box::pin(async move { sql.execute(conn).await.map(drop) })
    }

    // Inside a transaction, VACUUM is refused for that reason (https://www.sqlite.org/lang_vacuum.html). Outside, it is refused because
    // of the file name. So it never has an effect, also if the future is dropped.
    fn is_in_transaction(conn: &mut SqliteConnection) -> BoxFuture<'_, Result<bool, sqlx::Error>> {
        Box::pin(async move {
            match Self::simple(conn, "VACUUM INTO 0").await {
                Err(sqlx::Error::Database(error)) => {
                    Ok(error.message().contains("within a transaction"))
                }
                result => result.map(|()| false),
            }
        })
    }

    // sqlx gives a database in memory a name of its own.
    #[cfg(feature = "metrics")]
    fn pool_name(pool: &SqlitePool) -> String {
        let options = pool.connect_options();
        let path = options.get_filename();
        let is_in_memory = path.to_string_lossy().starts_with("file:sqlx-in-memory");
        let file = path.file_name().filter(|_| !is_in_memory);
        file.map_or(":memory:".into(), |file| file.to_string_lossy().into_owned())
    }

    // SQLITE_READONLY (https://www.sqlite.org/rescode.html#readonly), which `PRAGMA query_only` causes too.
    fn is_read_only(error: &sqlx::Error) -> bool {
        primary_code(error) == Some(8)
    }

    variants!(Sqlite);

    fn affected(done: &SqliteQueryResult) -> u64 {
        done.rows_affected()
    }

    fn get<'r, T>(row: &'r SqliteRow, column: usize) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Self> + Type<Self> + for<'q> Encode<'q, Self>,
    {
        let value = row.try_get_raw(column)?;
        let decoded = if value.is_null() {
            null(value)
        } else {
            let ty = value.type_info();
            if T::compatible(&ty) {
                T::decode(value)
            } else {
                Err(mismatched_types::<Self, T>(&ty))
            }
        };
        decoded.map_err(|source| sqlx::Error::ColumnDecode { index: column.to_string(), source })
    }

    // SQLite stores a value with its own type, whatever type the column declares, and reads it back with the stored type.
    fn takes(field: &SqliteTypeInfo, value: &SqliteTypeInfo) -> Option<bool> {
        let (field, value) = (field.name(), value.name());
        Some(field == value || (matches!(field, "REAL" | "NUMERIC") && value == "INTEGER"))
    }

    // NaN (https://www.sqlite.org/floatingpoint.html). The buffer exposes its values only through `Debug`.
    fn is_stored_as_null<'q, T: Encode<'q, Self> + Type<Self>>(value: &T) -> bool {
        let mut buffer = SqliteArgumentsBuffer::default();
        T::type_info() == <f64 as Type<Self>>::type_info()
            && value.encode_by_ref(&mut buffer).is_ok()
            && format!("{buffer:?}").ends_with("(NaN)])")
    }

    // sqlx has different type infos for `i64` and for integers of 32 bits and less, although both are named `INTEGER`.
    fn holds_rowid(ty: &SqliteTypeInfo) -> bool {
        *ty == <i64 as Type<Sqlite>>::type_info()
    }

    // The buffer exposes its values only through `Debug`, which prints the driver's integers, floats, strings and bytes.
    fn encoded(value: &dyn Bindable<Self>, all: &mut Vec<u8>) -> Result<(), BoxDynError> {
        let mut buffer = SqliteArgumentsBuffer::default();
        match value.encode(&mut buffer)? {
            IsNull::Yes => all.push(0),
            IsNull::No => write!(all, "{buffer:?}")?,
        }
        Ok(())
    }

    // Compares the stored values, without the collation of the column.
    fn differs(row: &SqliteRow, other: &SqliteRow, at: usize) -> Result<bool, sqlx::Error> {
        let (value, other_value) = (row.try_get_raw(at)?, other.try_get_raw(at)?);
        if value.is_null() || other_value.is_null() {
            return Ok(value.is_null() != other_value.is_null());
        }
        let integer = |row: &SqliteRow| row.try_get_unchecked::<i64, _>(at);
        let real = |row: &SqliteRow| row.try_get_unchecked::<f64, _>(at);
        let bytes = |row: &SqliteRow| row.try_get_unchecked::<Vec<u8>, _>(at);
        let (ty, other_ty) = (value.type_info(), other_value.type_info());
        match (ty.name(), other_ty.name()) {
            ("INTEGER", "INTEGER") => Ok(integer(row)? != integer(other)?),
            // 1 equals 1.0, and 0.0 equals -0.0.
            ("INTEGER" | "REAL", "INTEGER" | "REAL") => Ok(real(row)? != real(other)?),
            (ty, other_ty) => Ok(ty != other_ty || bytes(row)? != bytes(other)?),
        }
    }
}

/// Decodes NULL as a `T`. For most types, sqlx decodes NULL as zero or as an empty value. So `T` counts as nullable only if the
/// decoded value is encoded as NULL again.
fn null<'r, T>(value: SqliteValueRef<'r>) -> Result<T, BoxDynError>
where
    T: Decode<'r, Sqlite> + for<'q> Encode<'q, Sqlite>,
{
    match T::decode(value) {
        Ok(null) if Sqlite::is_null(&null) => Ok(null),
        _ => Err(UnexpectedNullError.into()),
    }
}

/// Opens a pool for `url`.
///
/// A missing file is created, unless the URL contains a `mode=` other than `rwc`. A file that is not opened read-only gets the
/// journal mode WAL. The pool of an in-memory database has one connection that is never closed, because the database would
/// disappear with its last connection.
pub(crate) async fn open(url: &str, db: DbOptions) -> Result<SqlitePool> {
    let options = SqliteConnectOptions::from_str(url)
        .map_err(|source| cannot_connect("SQLite".to_owned(), source))?;
    let options = options.busy_timeout(BUSY_TIMEOUT).foreign_keys(true).row_buffer_size(ROW_BUFFER);
    // sqlx has no getters for these options, but in its URLs, they are always in the query.
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let has = |param: &str| query.split('&').any(|p| p == param);
    let in_memory = url.contains(":memory:") || has("mode=memory");
    if !in_memory {
        connect::check_max_connections(&db)?;
    }

    let pool = db.pool(SqlitePoolOptions::new().test_before_acquire(false));
    let (pool, options) = if in_memory {
        (pool.max_connections(1).idle_timeout(None).max_lifetime(None), options)
    } else {
        let read_only = has("mode=ro") || query.contains("immutable=");
        let options = options.create_if_missing(!query.contains("mode="));
        let options = if has("mode=rwc") { options.create_if_missing(true) } else { options };
        let wal = SqliteJournalMode::Wal;
        (pool, if read_only { options } else { options.journal_mode(wal) })
    };
    let options = db.pragmas().fold(options, |options, (name, value)| options.pragma(name, value));
    let to = format!("SQLite at `{}`", options.get_filename().display());
    let limit = BUSY_TIMEOUT.min(pool.get_acquire_timeout());
    let start = Instant::now();
    loop {
        let (pool, options, db) = (pool.clone(), options.clone(), db.clone());
        match connect::open_pool(pool, options, db, |conn| Conn::sqlite_only(conn)).await {
            Err(error) if is_busy(&error) && start.elapsed() < limit => {
                sleep(SWITCH_PAUSE).await;
            }
            opened => return opened.map_err(|source| cannot_connect(to, source)),
        }
    }
}

/// The [primary result code](https://www.sqlite.org/rescode.html#primary_result_codes_versus_extended_result_codes) of an error of SQLite.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse().ok().map(|code: u32| code & 0xff)
}

/// Whether another connection has the lock of the file.
fn is_busy(error: &sqlx::Error) -> bool {
    // SQLITE_BUSY, and SQLITE_PROTOCOL: the lock of the WAL index.
    matches!(primary_code(error), Some(5 | 15))
}

fn cannot_connect(to: String, source: sqlx::Error) -> Error {
    // https://www.sqlite.org/rescode.html
    let advice = match (&source, primary_code(&source)) {
        (sqlx::Error::Configuration(_), _) => {
            "the options of a SQLite URL are `mode`, `cache`, `immutable` and `vfs`; set other things with `Db::options()`"
        }
        (_, Some(14)) => {
            "check that the directory exists and that the program may write there; a file that does not exist is only created \
             without `mode` or with `mode=rwc`"
        }
        (_, Some(5 | 6)) => "another program has locked the file; stop it or try again",
        (_, Some(8)) => "the file is read-only; change its permissions, or open it with `mode=ro`",
        (_, Some(26)) => "the file is not a SQLite database; correct the path",
        _ => "check the path and the options",
    };
    Error::CannotConnect { to, advice: advice.to_owned(), source }
}
