//! Receivers that are each said to run after the other.
#![allow(missing_docs)]
#![cfg(feature = "sqlite")]

use sqlx_signals::Error;
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
struct Egg {
    id: Option<i64>,
}

#[receiver(post_save, sender = Egg, after = hen)]
fn egg(_: PostSave<'_, Egg>) {}

#[receiver(post_save, sender = Egg, after = egg)]
fn hen(_: PostSave<'_, Egg>) {}

#[receiver(post_save, sender = Egg, after = hen)]
fn farmer(_: PostSave<'_, Egg>) {}

#[tokio::test]
async fn the_check_names_the_members() {
    let db = Db::connect("sqlite::memory:").await.unwrap();
    db.execute("CREATE TABLE egg (id INTEGER PRIMARY KEY)").await.unwrap();
    let Err(Error::Check { findings }) = db.check().await else { panic!("a circle is not found") };
    assert_eq!(
        findings,
        [
            "receivers are each said to run `after` another: `circle::egg` after `circle::hen` after `circle::egg`"
        ]
    );
    // They run all the same, each once.
    Egg { id: None }.save(&db).await.unwrap();
}
