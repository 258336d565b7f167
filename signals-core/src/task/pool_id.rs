//! Identifies what an operation can hold: the connection of a pool, and the write lock of a SQLite database.

/// Identifies a pool by its address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PoolId(pub(crate) usize);

impl PoolId {
    pub(crate) fn of<DB: sqlx::Database>(pool: &sqlx::Pool<DB>) -> Self {
        // The clones of a pool share the options, whose address does not change during the life of the pool.
        Self(std::ptr::from_ref(pool.options()) as usize)
    }
}

/// Identifies the queue of the writers of a SQLite database by its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct QueueId(pub(crate) usize);
