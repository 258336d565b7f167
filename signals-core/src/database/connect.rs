//! Connects a [`Db`] to a URL, and explains why that failed.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};
use sqlx::pool::PoolOptions;
use sqlx::{ConnectOptions, Connection, Database, Pool};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::database::backend;
use crate::database::conn::Conn;
use crate::database::db::Db;
use crate::database::options::DbOptions;
use crate::database::runtimes;
#[cfg(feature = "postgres")]
use crate::database::runtimes::Runtimes;
use crate::error::{Error, Result};

/// How long the attempt may take that finds out why the pool could not open a connection.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "write a URL such as `sqlite:shop.db` or `postgres://user@host/shop`";

/// Connects to `url`. Boxed, so that it is compiled in this crate and not in the application.
pub(crate) fn open(url: &str, options: DbOptions) -> BoxFuture<'_, Result<Db>> {
    Box::pin(async move {
        let scheme = url.split_once(':').map(|(scheme, _)| scheme);
        match scheme {
            #[cfg(feature = "sqlite")]
            Some("sqlite") => Ok(Db::of_sqlite(backend::open_sqlite(url, options).await?)),
            #[cfg(feature = "postgres")]
            Some("postgres" | "postgresql") => {
                check_max_connections(&options)?;
                let runtimes = Runtimes::with_hook();
                let pool = backend::open_postgres(url, options, Arc::clone(&runtimes)).await?;
                Ok(Db::of_postgres(pool, runtimes))
            }
            Some(scheme) => {
                let problem =
                    format!("`{scheme}:` is not a database of this build of sqlx-signals");
                let advice = match scheme {
                    "sqlite" => "enable its feature `sqlite`",
                    "postgres" | "postgresql" => "enable its feature `postgres`",
                    _ => EXAMPLES,
                };
                Err(cannot_connect(problem, advice))
            }
            None if url.is_empty() => Err(cannot_connect("the URL is empty".to_owned(), EXAMPLES)),
            None => Err(cannot_connect(format!("`{url}` is not a URL"), EXAMPLES)),
        }
    })
}

/// Returns an error if the pool may open no connection.
pub(super) fn check_max_connections(options: &DbOptions) -> Result<()> {
    if options.get_max_connections() == Some(0) {
        let problem = "the pool may open no connection";
        return Err(cannot_connect(problem.to_owned(), "set `max_connections` to 1 or more"));
    }
    Ok(())
}

fn cannot_connect(problem: String, advice: &str) -> Error {
    let source = sqlx::Error::Configuration(problem.into());
    Error::CannotConnect { to: "the database".to_owned(), advice: advice.to_owned(), source }
}

/// The options of a connection of `DB`.
type OptionsOf<DB> = <<DB as Database>::Connection as Connection>::Options;

/// Opens a pool that calls the program's function with every new connection. `wrap` converts the connection for it.
///
/// The pool would repeat the call and only log its errors, so this returns the first one.
pub(super) async fn open_pool<DB: Database>(
    pool: PoolOptions<DB>,
    options: OptionsOf<DB>,
    db: DbOptions,
    wrap: for<'c> fn(&'c mut DB::Connection) -> Conn<'c>,
) -> Result<Pool<DB>, sqlx::Error> {
    let (sender, refused) = oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let pool = pool.after_connect(move |conn, _| {
        let (db, sender) = (db.clone(), Arc::clone(&sender));
        Box::pin(async move {
            let Err(error) = db.run_after_connect(wrap(conn)).await else {
                // The pool returns the connection in this poll.
                runtimes::note_opened();
                return Ok(());
            };
            let Some(sender) = sender.lock().unwrap_or_else(PoisonError::into_inner).take() else {
                return Err(error);
            };
            let text = error.to_string();
            // Nobody receives it after the first connection.
            match sender.send(error) {
                Ok(()) => Err(sqlx::Error::Configuration(text.into())),
                Err(error) => Err(error),
            }
        })
    });
    let opened = pin!(pool.connect_with(options.clone()));
    match select(opened, refused).await {
        Either::Left((Err(error), _)) => Err(reason(error, &options).await),
        Either::Left((opened, _)) => opened,
        Either::Right((Ok(error), _)) => Err(error),
        Either::Right((Err(_), opened)) => opened.await,
    }
}

/// The reason why a pool could not open a connection. The pool repeats some attempts until its timeout expires, and then only reports
/// the timeout, so one more attempt is made here.
async fn reason<O: ConnectOptions<Connection: Sized>>(
    error: sqlx::Error,
    options: &O,
) -> sqlx::Error {
    if !matches!(error, sqlx::Error::PoolTimedOut) {
        return error;
    }
    match timeout(PROBE_TIMEOUT, options.connect()).await {
        Ok(Err(reason)) => reason,
        Ok(Ok(_)) | Err(_) => error,
    }
}
