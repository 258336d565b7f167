//! Opens a pool of PostgreSQL connections, and explains why that failed.

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool};
use sqlx_core::Url;
use tokio::time::timeout;

use crate::database::conn::Conn;
use crate::database::connect;
use crate::database::options::DbOptions;
use crate::database::pool::{ANSWER_TIMEOUT, PING_AFTER};
use crate::database::runtimes::Runtimes;
use crate::error::{Error, Result};

/// Opens a pool for `url`. Unlike sqlx's default, it pings a connection before use only if the connection was idle, so a save on
/// a warm pool is a single round trip.
pub(crate) async fn open(url: &str, db: DbOptions, used_in: Arc<Runtimes>) -> Result<PgPool> {
    let url = Url::parse(url).map_err(|error| {
        cannot_connect("PostgreSQL".to_owned(), sqlx::Error::Configuration(error.into()))
    })?;
    let mut options = PgConnectOptions::from_url(&url)
        .map_err(|source| cannot_connect("PostgreSQL".to_owned(), source))?;
    check_url_options(&url)?;
    if let Some(name) = db.get_application_name() {
        options = options.application_name(name);
    }
    if !db.keeps_statements() {
        // PgBouncer rejects the startup parameter `extra_float_digits` unless it is configured to ignore it. The parameter only
        // affects numbers in text format, and sqlx uses the binary format.
        options = options.statement_cache_capacity(0).extra_float_digits(None);
    }
    let to = match options.get_socket() {
        Some(socket) => format!("PostgreSQL at `{}`", socket.display()),
        None => format!("PostgreSQL at `{}:{}`", options.get_host(), options.get_port()),
    };
    let pool = db.pool(PgPoolOptions::new().test_before_acquire(false));
    // If the ping gets no answer, time must remain to open a new connection.
    let answer_timeout = ANSWER_TIMEOUT.min(pool.get_acquire_timeout() / 2);
    let pool = pool.before_acquire(move |conn, meta| {
        let fresh = meta.idle_for < PING_AFTER && !used_in.has_several();
        Box::pin(async move {
            Ok(fresh || matches!(timeout(answer_timeout, conn.ping()).await, Ok(Ok(()))))
        })
    });
    let opened = connect::open_pool(pool, options, db, |conn| Conn::postgres_only(conn)).await;
    opened.map_err(|source| cannot_connect(to, source))
}

/// The options that sqlx understands. It only logs a warning about others, so a misspelled option would have no effect.
const URL_OPTIONS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Options of libpq that sqlx does not have. They are not settings of the server
/// (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS>).
const LIBPQ_OPTIONS: [&str; 25] = [
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "service",
    "sslcompression",
    "sslcrl",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];

fn check_url_options(url: &Url) -> Result<()> {
    let is_known = |name: &str| URL_OPTIONS.contains(&name) || name.starts_with("options[");
    match url.query_pairs().find(|(name, _)| !is_known(name)) {
        None => Ok(()),
        Some((name, _)) if LIBPQ_OPTIONS.contains(&&*name) => Err(Error::CannotConnect {
            to: "PostgreSQL".to_owned(),
            advice: format!("remove `{name}` from the URL"),
            source: sqlx::Error::Configuration(
                format!("the URL has the option `{name}`, which sqlx does not support").into(),
            ),
        }),
        Some((name, _)) => Err(Error::CannotConnect {
            to: "PostgreSQL".to_owned(),
            advice: format!(
                "write a setting of the server as `options[{name}]=…`; other options are {}",
                URL_OPTIONS.join(", ")
            ),
            source: sqlx::Error::Configuration(
                format!("the URL has the unknown option `{name}`").into(),
            ),
        }),
    }
}

fn cannot_connect(to: String, source: sqlx::Error) -> Error {
    let code = source.as_database_error().and_then(|error| error.code());
    // https://www.postgresql.org/docs/current/errcodes-appendix.html
    let advice = match (&source, code.as_deref()) {
        (sqlx::Error::Configuration(_), _) => {
            "write the URL as `postgres://user:password@host:5432/database`, with special characters percent-encoded"
        }
        (sqlx::Error::Io(_), _) => "check that the server is running, and the host and the port",
        (sqlx::Error::Tls(_), _) => {
            "enable the feature `tls-rustls` or `tls-native-tls`, or add `?sslmode=disable` to the URL"
        }
        (sqlx::Error::PoolTimedOut, _) => {
            "check that the server is reachable, or allow more time with `Db::options().acquire_timeout(…)`"
        }
        (_, Some("28000" | "28P01")) => "check the user and the password",
        (_, Some("3D000")) => "create the database with `createdb`, or correct its name",
        (_, Some("53300")) => "lower `max_connections` of the programs, or raise it on the server",
        _ => "check the URL and the server",
    };
    Error::CannotConnect { to, advice: advice.to_owned(), source }
}
