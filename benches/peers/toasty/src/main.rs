//! `create!` and `update()`, on toasty's pool as it comes.
#[path = "../../common.rs"]
mod common;

use common::{Args, Writers, email, name};

#[derive(Debug, toasty::Model)]
#[table = "users"]
struct User {
    #[key]
    #[auto]
    id: i64,
    name: String,
    email: String,
}

/// Tasks that share a pool. `synchronous` is the default of the build.
async fn write(writers: Writers) {
    let db = toasty::Db::builder().models(toasty::models!(User)).connect(&writers.url).await.unwrap();
    on_tasks!(writers, move || {
        let mut db = db.clone();
        async move { toasty::create!(User { name: name(1), email: email(1) }).exec(&mut db).await.is_ok() }
    });
}

#[tokio::main]
async fn main() {
    if let Some(writers) = Writers::read() {
        return write(writers).await;
    }
    let args = Args::read();
    let mut db = toasty::Db::builder().models(toasty::models!(User)).connect(&args.url).await.unwrap();
    measure!(args, "insert", false, |i| {
        toasty::create!(User { name: name(i), email: email(i) }).exec(&mut db).await.unwrap()
    });
    let mut user = toasty::create!(User { name: name(0), email: email(0) }).exec(&mut db).await.unwrap();
    measure!(args, "update", false, |i| {
        user.update().name(name(i)).email(email(i)).exec(&mut db).await.unwrap()
    });
    assert!(user.id > 0);
}
