//! `insert_pool` and `save_pool`. A save does not send rustango's signals: the program does, here after each save.
#[path = "../../common.rs"]
mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Args, email, name};
use rustango::Model;
use rustango::signals::{PostSaveContext, connect_post_save, send_post_save};
use rustango::sql::{Auto, Pool};

static SAVED: AtomicUsize = AtomicUsize::new(0);

#[derive(Model, Debug, Clone)]
#[rustango(table = "users")]
pub struct User {
    #[rustango(primary_key)]
    pub id: Auto<i64>,
    #[rustango(max_length = 255)]
    pub name: String,
    #[rustango(max_length = 255)]
    pub email: String,
}

#[tokio::main]
async fn main() {
    let args = Args::read();
    let pool = Pool::connect(&args.url).await.unwrap();
    connect_post_save::<User, _, _>(|user, _| async move {
        SAVED.fetch_add(user.name.len(), Ordering::Relaxed);
    });
    for hook in [false, true] {
        measure!(args, "insert", hook, |i| {
            let mut user = User { id: Auto::Unset, name: name(i), email: email(i) };
            user.insert_pool(&pool).await.unwrap();
            if hook {
                send_post_save(&user, PostSaveContext { created: true }).await;
            }
        });
        let mut user = User { id: Auto::Unset, name: name(0), email: email(0) };
        user.insert_pool(&pool).await.unwrap();
        measure!(args, "update", hook, |i| {
            user.name = name(i);
            user.email = email(i);
            user.save_pool(&pool).await.unwrap();
            if hook {
                send_post_save(&user, PostSaveContext { created: false }).await;
            }
        });
    }
    assert!(SAVED.load(Ordering::Relaxed) > 0);
}
