//! `insert(…).single` and `update(…).set(…).condition(…)`, on rorm's pool as it comes.
#[path = "../../common.rs"]
mod common;

use common::{Args, email, name};
use percent_encoding::percent_decode_str;
use rorm::prelude::*;
use rorm::{Database, DatabaseConfiguration, DatabaseDriver};
use url::Url;

#[derive(Debug, Model)]
#[rorm(rename = "users")]
struct User {
    #[rorm(id)]
    id: i64,
    #[rorm(max_length = 255)]
    name: String,
    #[rorm(max_length = 255)]
    email: String,
}

#[derive(Patch)]
#[rorm(model = "User")]
struct NewUser {
    name: String,
    email: String,
}

#[tokio::main]
async fn main() {
    let args = Args::read();
    let driver = if args.is_postgres() { postgres(&args.url) } else { DatabaseDriver::SQLite { filename: args.path().to_owned() } };
    let db = Database::connect(DatabaseConfiguration::new(driver)).await.unwrap();
    measure!(args, "insert", false, |i| {
        let user = NewUser { name: name(i), email: email(i) };
        rorm::insert(&db, User).single(&user).await.unwrap()
    });
    let user: User = rorm::insert(&db, User).single(&NewUser { name: name(0), email: email(0) }).await.unwrap();
    measure!(args, "update", false, |i| {
        let query = rorm::update(&db, User).set(User.name, name(i)).set(User.email, email(i));
        assert_eq!(query.condition(User.id.equals(user.id)).await.unwrap(), 1)
    });
    db.close().await;
}

/// A host that begins with a slash is the folder of a Unix socket, to sqlx below it as to libpq.
fn postgres(url: &str) -> DatabaseDriver {
    let url = Url::parse(url).unwrap();
    let decoded = |part: &str| percent_decode_str(part).decode_utf8().unwrap().into_owned();
    let folder = url.query_pairs().find(|(key, _)| key == "host").map(|(_, folder)| folder.into_owned());
    DatabaseDriver::Postgres {
        host: folder.unwrap_or_else(|| decoded(url.host_str().unwrap_or("localhost"))),
        port: url.port().unwrap_or(5432),
        name: decoded(url.path().trim_start_matches('/')),
        user: decoded(url.username()),
        password: decoded(url.password().unwrap_or_default()),
    }
}
