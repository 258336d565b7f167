use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::{Connection, Decode, PgPool, Postgres, Row, Type};

use super::{AnyRow, Arguments, Backend, DatabaseKind};
use crate::error::Result;

/// A connection that was not used for so long is asked whether it still lives before it is used.
const IDLE: Duration = Duration::from_secs(1);

impl Backend for Postgres {
    const KIND: DatabaseKind = DatabaseKind::Postgres;
    const BEGIN: &'static str = "BEGIN";

    fn arguments(args: &mut Arguments) -> &mut PgArguments {
        match args {
            Arguments::Postgres(args) => args,
            #[cfg(feature = "sqlite")]
            Arguments::Sqlite(_) => unreachable!("a Postgres model on a SQLite connection"),
        }
    }

    fn row(row: &AnyRow) -> &PgRow {
        match row {
            AnyRow::Postgres(row) => row,
            #[cfg(feature = "sqlite")]
            AnyRow::Sqlite(_) => unreachable!("a Postgres model in a SQLite row"),
        }
    }

    fn get<'r, T>(row: &'r PgRow, column: usize) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Self> + Type<Self>,
    {
        row.try_get(column)
    }
}

/// A pool for `url` that does not ping before every use, as sqlx's own default does: only a connection that was idle
/// is asked. A save on a warm pool is then one round trip.
pub(crate) async fn open(url: &str) -> Result<PgPool> {
    let options = PgConnectOptions::from_str(url)?;
    let pool = PgPoolOptions::new().test_before_acquire(false).before_acquire(|conn, meta| {
        Box::pin(async move { Ok(meta.idle_for < IDLE || conn.ping().await.is_ok()) })
    });
    Ok(pool.connect_with(options).await?)
}
