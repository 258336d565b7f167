//! Wakes the workers after a commit that has stored deliveries.

use std::sync::LazyLock;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::database::db::Db;
use crate::database::deferred::{Deferred, End};
use crate::durable::notify;
use crate::error::Error;
use crate::task::pool_id::PoolId;

/// Counts the commits. It is global: a worker may wake for a commit of another database, and then finds nothing.
static COMMITS: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::Sender::new(0));

pub(super) fn subscribe() -> watch::Receiver<u64> {
    COMMITS.subscribe()
}

/// Wakes the workers of this process and, if the `Db` is known, those of other processes.
pub(super) fn wake(db: Option<&Db>) {
    COMMITS.send_modify(|commits| *commits = commits.wrapping_add(1));
    if let Some(db) = db {
        notify::stored(db);
    }
}

/// Wakes the workers when its transaction has committed.
pub(super) struct WakeOnCommit(pub(super) Option<Db>);

impl Deferred for WakeOnCommit {
    fn run(self: Box<Self>, end: End, _: Option<PoolId>) -> BoxFuture<'static, Vec<Error>> {
        if end == End::Committed {
            wake(self.0.as_ref());
        }
        Box::pin(async { Vec::new() })
    }
}
