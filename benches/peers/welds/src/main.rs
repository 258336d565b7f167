//! `save` of a `DbState`, without and with the hooks after create and update.
#[path = "../../common.rs"]
mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Args, email, name};
use welds::prelude::*;

static SAVED: AtomicUsize = AtomicUsize::new(0);

#[derive(Debug, WeldsModel)]
#[welds(table = "users")]
pub struct User {
    #[welds(primary_key)]
    pub id: i64,
    pub name: String,
    pub email: String,
}

#[derive(Debug, WeldsModel)]
#[welds(table = "users")]
#[welds(AfterCreate(count))]
#[welds(AfterUpdate(count))]
pub struct Heard {
    #[welds(primary_key)]
    pub id: i64,
    pub name: String,
    pub email: String,
}

fn count(user: &Heard) {
    SAVED.fetch_add(user.name.len(), Ordering::Relaxed);
}

macro_rules! on {
    ($args:expr, $client:expr, $model:ident, $hook:expr) => {{
        measure!($args, "insert", $hook, |i| {
            let mut user = DbState::new_uncreated($model { id: 0, name: name(i), email: email(i) });
            user.save(&$client).await.unwrap()
        });
        let mut user = DbState::new_uncreated($model { id: 0, name: name(0), email: email(0) });
        user.save(&$client).await.unwrap();
        measure!($args, "update", $hook, |i| {
            user.name = name(i);
            user.email = email(i);
            user.save(&$client).await.unwrap()
        });
    }};
}

#[tokio::main]
async fn main() {
    let args = Args::read();
    let client = welds::connections::connect(&args.url).await.unwrap();
    on!(args, client, User, false);
    on!(args, client, Heard, true);
    assert!(SAVED.load(Ordering::Relaxed) > 0);
}
