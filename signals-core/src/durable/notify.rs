//! On PostgreSQL, tells the workers of other processes that this process has stored deliveries.
//!
//! PostgreSQL makes the commits of transactions with a NOTIFY wait for each other, so a NOTIFY is never part of a write. It is sent on a
//! separate connection, at most once per interval.

#[cfg(feature = "postgres")]
pub(super) use postgres::{CHANNEL, is_own, stored};

#[cfg(not(feature = "postgres"))]
pub(super) fn stored(_: &crate::database::db::Db) {}

#[cfg(feature = "postgres")]
mod postgres {
    use std::collections::HashMap;
    use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    use sqlx::postgres::PgConnectOptions;
    use sqlx::{AssertSqlSafe, Connection, PgConnection};
    use tokio::sync::Notify;
    use tokio::time::{sleep, timeout};

    use crate::database::db::Db;
    use crate::task::pool_id::PoolId;

    pub(in crate::durable) const CHANNEL: &str = "signals_delivery";

    /// The shortest time between two notifications.
    const INTERVAL: Duration = Duration::from_millis(50);
    /// The connection is closed if nothing was stored for this long.
    const IDLE: Duration = Duration::from_secs(10);

    /// The tasks that notify, by the pool through which the deliveries were stored.
    static SENDERS: LazyLock<Mutex<HashMap<PoolId, Arc<Notify>>>> = LazyLock::new(Mutex::default);

    /// The payload of the notifications of this process. Its own workers ignore them, because the commit has already woken them.
    static OWN: LazyLock<String> =
        LazyLock::new(|| format!("{}-{:016x}", std::process::id(), fastrand::u64(..)));

    fn senders() -> MutexGuard<'static, HashMap<PoolId, Arc<Notify>>> {
        SENDERS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this process has sent a notification.
    pub(in crate::durable) fn is_own(payload: &str) -> bool {
        payload == *OWN
    }

    /// Notifies the workers of other processes soon. Call this after the commit.
    pub(in crate::durable) fn stored(db: &Db) {
        let Some(pool) = db.postgres_pool() else { return };
        let id = db.pool_id();
        let mut senders = senders();
        if let Some(sender) = senders.get(&id) {
            return sender.notify_one();
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let wanted = Arc::new(Notify::new());
        wanted.notify_one();
        senders.insert(id, Arc::clone(&wanted));
        runtime.spawn(run((*pool.connect_options()).clone(), wanted, Sender(id)));
    }

    /// The map entry of a task. It is removed even if the runtime of the task shuts down.
    struct Sender(PoolId);

    impl Drop for Sender {
        fn drop(&mut self) {
            senders().remove(&self.0);
        }
    }

    async fn run(options: PgConnectOptions, wanted: Arc<Notify>, _sender: Sender) {
        let mut conn = None;
        while timeout(IDLE, wanted.notified()).await.is_ok() {
            match notify(&options, conn.take()).await {
                Ok(connected) => conn = Some(connected),
                // The workers find the deliveries when they poll.
                Err(error) => {
                    tracing::debug!(%error, "the workers of other processes could not be notified")
                }
            }
            sleep(INTERVAL).await;
        }
        if let Some(conn) = conn {
            let _ = conn.close().await;
        }
    }

    /// Returns the connection.
    async fn notify(
        options: &PgConnectOptions,
        conn: Option<PgConnection>,
    ) -> Result<PgConnection, sqlx::Error> {
        let mut conn = match conn {
            Some(conn) => conn,
            None => PgConnection::connect_with(options).await?,
        };
        let notify = format!("NOTIFY {CHANNEL}, '{}'", *OWN);
        sqlx::raw_sql(AssertSqlSafe(notify)).execute(&mut conn).await?;
        Ok(conn)
    }
}
