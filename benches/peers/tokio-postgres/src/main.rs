//! tokio-postgres on one connection, whose other half is a task: what the protocol and the server take.
#[path = "../../common.rs"]
mod common;

use common::{Args, email, name};
use tokio_postgres::NoTls;

#[tokio::main]
async fn main() {
    let args = Args::read();
    let (client, connection) = tokio_postgres::connect(&args.url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let insert = client.prepare("INSERT INTO users (name, email) VALUES ($1, $2) RETURNING id").await.unwrap();
    measure!(args, "insert", false, |i| {
        let _: i64 = client.query_one(&insert, &[&name(i), &email(i)]).await.unwrap().get(0);
    });
    let id: i64 = client.query_one(&insert, &[&name(0), &email(0)]).await.unwrap().get(0);
    let update = client.prepare("UPDATE users SET name = $1, email = $2 WHERE id = $3").await.unwrap();
    measure!(args, "update", false, |i| {
        assert_eq!(client.execute(&update, &[&name(i), &email(i), &id]).await.unwrap(), 1)
    });
}
