//! One table, and a model of it for each kind and number of receivers.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx_signals::prelude::*;

/// A row of `users`, whoever receives its signals.
pub(crate) trait User: Model<Pk = i64> + Portable {
    fn with_id(id: Option<i64>) -> Self;
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

macro_rules! users {
    ($($model:ident)*) => { $(
        #[derive(Debug, Clone, Model)]
        #[model(table = "users")]
        pub(crate) struct $model {
            pub(crate) id: Option<i64>,
            pub(crate) name: String,
            pub(crate) email: String,
        }

        impl User for $model {
            fn with_id(id: Option<i64>) -> Self {
                // SQLite does not write a page that stays as it is.
                let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                Self { id, name: "Ann".to_owned(), email: format!("ann{number}@example.org") }
            }
        }
    )* };
}

users!(Alone Sync1 Sync10 Async1 Async10 Writing1 Writing10 OnCommit1 OnCommit10);

/// With the feature `durable`, this model has a durable receiver. No figure of the other models may differ from that without the feature.
#[cfg(feature = "durable")]
#[derive(Debug, Model, serde::Serialize, serde::Deserialize)]
#[model(table = "users")]
struct Delivered {
    id: Option<i64>,
    name: String,
    email: String,
}

#[cfg(feature = "durable")]
#[receiver(post_save, sender = Delivered, durable(at_least_once))]
fn deliver(_: PostSave<'_, Delivered>) {}

/// What a receiver writes.
#[derive(Debug, Model)]
#[model(table = "audit")]
pub(crate) struct Audit {
    id: Option<i64>,
    user_id: i64,
}

/// Receivers of saves and deletes, one of each for each name.
macro_rules! receivers {
    ($kind:ident of $model:ident: $($name:ident)*) => { $(
        mod $name {
            use super::*;
            receivers!(@$kind $model);
        }
    )* };
    (@sync $model:ident) => {
        #[receiver(post_save, sender = $model)]
        fn saved(saved: PostSave<'_, $model>) {
            black_box(saved.created);
        }

        #[receiver(post_delete, sender = $model)]
        fn deleted(deleted: PostDelete<'_, $model>) {
            black_box(deleted.instance);
        }
    };
    (@future $model:ident) => {
        #[receiver(post_save, sender = $model)]
        async fn saved(saved: PostSave<'_, $model>) {
            black_box(saved.created);
        }

        #[receiver(post_delete, sender = $model)]
        async fn deleted(deleted: PostDelete<'_, $model>) {
            black_box(deleted.instance);
        }
    };
    (@writing $model:ident) => {
        #[receiver(post_save, sender = $model)]
        async fn saved(saved: PostSave<'_, $model>, conn: &mut Conn<'_>) -> Result<()> {
            Audit { id: None, user_id: saved.pk() }.save(conn).await.map(drop)
        }

        #[receiver(post_delete, sender = $model)]
        async fn deleted(deleted: PostDelete<'_, $model>, conn: &mut Conn<'_>) -> Result<()> {
            Audit { id: None, user_id: deleted.pk() }.save(conn).await.map(drop)
        }
    };
    (@on_commit $model:ident) => {
        #[receiver(post_save, sender = $model, on_commit)]
        async fn saved(saved: PostSave<'_, $model>) {
            black_box(saved.created);
        }

        #[receiver(post_delete, sender = $model, on_commit)]
        async fn deleted(deleted: PostDelete<'_, $model>) {
            black_box(deleted.instance);
        }
    };
}

receivers!(sync of Sync1: s);
receivers!(sync of Sync10: s0 s1 s2 s3 s4 s5 s6 s7 s8 s9);
receivers!(future of Async1: a);
receivers!(future of Async10: a0 a1 a2 a3 a4 a5 a6 a7 a8 a9);
receivers!(writing of Writing1: w);
receivers!(writing of Writing10: w0 w1 w2 w3 w4 w5 w6 w7 w8 w9);
receivers!(on_commit of OnCommit1: c);
receivers!(on_commit of OnCommit10: c0 c1 c2 c3 c4 c5 c6 c7 c8 c9);
