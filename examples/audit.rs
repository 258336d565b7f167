//! An audit log of every model, and the receivers of the program as a table and as a picture.
//!
//! `cargo run --example audit` uses SQLite in memory. The same program on Postgres:
//! `DATABASE_URL=postgres://… cargo run --example audit --features postgres`

use sqlx_signals::prelude::*;
use sqlx_signals::{AnyModel, DatabaseKind};

#[derive(Clone)]
struct CurrentUser(&'static str);

/// Who has written which row.
#[receiver(post_save)]
async fn audit(
    saved: PostSave<'_, dyn AnyModel>,
    conn: &mut Conn<'_>,
    State(user): State<CurrentUser>,
) -> Result<()> {
    let insert =
        conn.query("INSERT INTO audit_log (who, tab, row_key, json) VALUES ($1, $2, $3, $4)");
    let (table, key, json) =
        (saved.instance.table(), saved.instance.key(), saved.instance.to_json());
    insert.bind(user.0).bind(table).bind(key).bind(json.map(|j| j.to_string())).execute().await?;
    Ok(())
}

#[derive(serde::Serialize, Model)]
#[model(table = "invoices")]
struct Invoice {
    id: Option<i64>,
    total: i64,
}

/// Nothing is sold below its price.
#[receiver(pre_save, sender = Invoice)]
fn no_negative_totals(save: PreSave<'_, Invoice>) -> Result<(), &'static str> {
    if save.instance.total < 0 { Err("the total is negative") } else { Ok(()) }
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite::memory:".to_owned());
    let db = Db::connect(&url).await?.with(CurrentUser("nobody"));
    db.check().await?;
    db.execute(match db.kind() {
        DatabaseKind::Sqlite => {
            "CREATE TABLE invoices (id INTEGER PRIMARY KEY, total BIGINT NOT NULL)"
        }
        DatabaseKind::Postgres => {
            "CREATE TABLE invoices (id BIGSERIAL PRIMARY KEY, total BIGINT NOT NULL)"
        }
    })
    .await?;
    db.execute("CREATE TABLE audit_log (who TEXT, tab TEXT, row_key TEXT, json TEXT)").await?;

    let of_request = db.with(CurrentUser("ann"));
    Invoice { id: None, total: 30 }.save(&of_request).await?;
    let refused = Invoice { id: None, total: -1 }.save(&of_request).await.unwrap_err();
    println!("{refused}");

    let log: Vec<(String, String, String, String)> =
        db.query("SELECT who, tab, row_key, json FROM audit_log").fetch_all().await?;
    println!("{log:?}\n");
    assert_eq!(log.len(), 1);
    assert_eq!((&*log[0].0, &*log[0].3), ("ann", r#"{"id":1,"total":30}"#));

    println!("{}", registry().receivers());
    println!("{}", registry().to_mermaid());
    db.execute("DROP TABLE invoices; DROP TABLE audit_log").await?;
    Ok(())
}
