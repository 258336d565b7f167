//! Notices on SQLite that another process has committed.

use std::sync::Weak;
use std::time::Duration;

use tokio::time::sleep;

use super::Shared;
use crate::database::backend::DatabaseKind;
use crate::durable::sql::Sql;
use crate::error::Result;

const INTERVAL: Duration = Duration::from_millis(50);

/// Asks for the number that changes with every commit of another connection. This takes no lock.
pub(super) async fn run(shared: Weak<Shared>) {
    let Some(watch) = shared.upgrade().and_then(|shared| shared.connections.watch.clone()) else {
        return;
    };
    let watched: Result<()> = async {
        // The number of one connection cannot be compared with that of another one.
        let mut conn = watch.acquire().await?;
        let mut last = 0_i64;
        loop {
            sleep(INTERVAL).await;
            let asked = Sql::new(DatabaseKind::Sqlite, "PRAGMA data_version");
            let rows: Vec<(i64,)> = asked.fetch(&mut conn).await?;
            let version = rows.first().map_or(0, |(version,)| *version);
            let Some(shared) = shared.upgrade() else { return Ok(()) };
            if version != last {
                last = version;
                shared.noticed.notify_one();
            }
        }
    }
    .await;
    if let Err(error) = watched {
        tracing::warn!(%error, "a worker does not notice the commits of other processes, and polls for them");
    }
}
