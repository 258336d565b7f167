//! `insert` and `update` of a model that nobody receives, and of one with a receiver.
#[path = "../../common.rs"]
mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Args, email, name};
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
    email: String,
}

/// The same table, heard of.
#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Heard {
    id: Option<i64>,
    name: String,
    email: String,
}

static SAVED: AtomicUsize = AtomicUsize::new(0);

#[receiver(post_save, sender = Heard)]
fn count(saved: PostSave<'_, Heard>) {
    SAVED.fetch_add(saved.instance.name.len(), Ordering::Relaxed);
}

/// And with a receiver that takes the connection, and so a transaction. It does not use it.
#[derive(Debug, Clone, Model)]
#[model(table = "users")]
struct Joined {
    id: Option<i64>,
    name: String,
    email: String,
}

#[receiver(post_save, sender = Joined)]
async fn join(saved: PostSave<'_, Joined>, _conn: &mut Conn<'_>) -> Result<()> {
    SAVED.fetch_add(saved.instance.name.len(), Ordering::Relaxed);
    Ok(())
}

macro_rules! on {
    ($args:expr, $db:expr, $model:ident, $suffix:expr, $hook:expr) => {{
        measure!($args, concat!("insert", $suffix), $hook, |i| {
            let mut user = $model { id: None, name: name(i), email: email(i) };
            user.insert(&$db).await.unwrap()
        });
        let mut user = $model { id: None, name: name(0), email: email(0) };
        user.insert(&$db).await.unwrap();
        measure!($args, concat!("update", $suffix), $hook, |i| {
            user.name = name(i);
            user.email = email(i);
            user.update(&$db).await.unwrap()
        });
    }};
}

#[tokio::main]
async fn main() {
    let args = Args::read();
    let db = Db::connect(&args.url).await.unwrap();
    on!(args, db, User, "", false);
    on!(args, db, Heard, "", true);
    on!(args, db, Joined, ", hook in a transaction", true);
    assert!(SAVED.load(Ordering::Relaxed) > args.operations * 4);
}
