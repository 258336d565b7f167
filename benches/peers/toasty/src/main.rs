//! `create!` and `update()`, on toasty's pool as it comes.
#[path = "../../common.rs"]
mod common;

use common::{Args, email, name};

#[derive(Debug, toasty::Model)]
#[table = "users"]
struct User {
    #[key]
    #[auto]
    id: i64,
    name: String,
    email: String,
}

#[tokio::main]
async fn main() {
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
