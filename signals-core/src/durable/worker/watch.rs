//! Notices that another process has committed.

use std::sync::Weak;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::database::backend::DatabaseKind;
use crate::database::db::Db;
use crate::durable::sql::Sql;
use crate::error::Result;

const INTERVAL: Duration = Duration::from_millis(50);
/// How long the worker waits after an error.
const PAUSE: Duration = Duration::from_secs(5);

/// Notifies `noticed` until it is dropped.
pub(in crate::durable) async fn run(watch: Option<Db>, noticed: Weak<Notify>) {
    let Some(watch) = watch else { return };
    loop {
        let watched = match watch.kind() {
            DatabaseKind::Sqlite => ask(&watch, &noticed).await,
            DatabaseKind::Postgres => listen(&watch, &noticed).await,
        };
        if noticed.strong_count() == 0 {
            return;
        }
        if let Err(error) = watched {
            tracing::warn!(%error, "a worker does not notice the commits of other processes, and polls for them");
        }
        sleep(PAUSE).await;
    }
}

/// Asks for the number that changes with every commit of another connection. This takes no lock.
async fn ask(watch: &Db, noticed: &Weak<Notify>) -> Result<()> {
    // The number of one connection cannot be compared with that of another one.
    let mut conn = watch.acquire().await?;
    let mut last = 0_i64;
    loop {
        sleep(INTERVAL).await;
        let asked = Sql::new(DatabaseKind::Sqlite, "PRAGMA data_version");
        let rows: Vec<(i64,)> = asked.fetch(&mut conn).await?;
        let version = rows.first().map_or(0, |(version,)| *version);
        let Some(noticed) = noticed.upgrade() else { return Ok(()) };
        if version != last {
            last = version;
            noticed.notify_one();
        }
    }
}

/// Receives notifications. While the connection is lost, the worker polls.
#[cfg(feature = "postgres")]
async fn listen(watch: &Db, noticed: &Weak<Notify>) -> Result<()> {
    use sqlx::postgres::PgListener;

    use crate::durable::notify;

    let Some(pool) = watch.postgres_pool() else { return Ok(()) };
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(notify::CHANNEL).await?;
    // What was committed before has sent no notification to this connection.
    let mut is_news = true;
    loop {
        let Some(upgraded) = noticed.upgrade() else { return Ok(()) };
        if is_news {
            upgraded.notify_one();
        }
        drop(upgraded);
        let received = listener.try_recv().await?;
        // `None`: the connection was lost, and notifications with it.
        is_news = received.is_none_or(|received| !notify::is_own(received.payload()));
    }
}

#[cfg(not(feature = "postgres"))]
async fn listen(_: &Db, _: &Weak<Notify>) -> Result<()> {
    Ok(())
}
