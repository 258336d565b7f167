//! An audit log of every model. It prints the receivers of the program as a table and as a graph, including what they have saved.
//!
//! `cargo run --example audit` uses SQLite in memory. The same program on PostgreSQL:
//! `DATABASE_URL=postgres://… cargo run --example audit --features postgres`

use sqlx_signals::prelude::*;
use sqlx_signals::{AnyModel, DatabaseKind};

#[derive(Clone)]
struct CurrentUser(&'static str);

/// Logs who has written which row.
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

/// Rejects invoices with a negative total.
#[receiver(pre_save, sender = Invoice)]
fn no_negative_totals(save: PreSave<'_, Invoice>) -> Result<(), &'static str> {
    if save.instance.total < 0 { Err("the total is negative") } else { Ok(()) }
}

#[derive(serde::Serialize, Model)]
#[model(table = "reminders")]
struct Reminder {
    id: Option<i64>,
    invoice_id: i64,
    days: i64,
}

/// Creates a reminder for every new invoice, due in 30 days.
#[receiver(post_save, sender = Invoice, created)]
async fn remind(saved: PostSave<'_, Invoice>, conn: &mut Conn<'_>) -> Result<()> {
    Reminder { id: None, invoice_id: saved.pk(), days: 30 }.save(conn).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| "sqlite::memory:".to_owned());
    let db = Db::connect(&url).await?.with(CurrentUser("nobody"));
    db.execute(match db.kind() {
        DatabaseKind::Sqlite => {
            "CREATE TABLE invoices (id INTEGER PRIMARY KEY, total BIGINT NOT NULL);
             CREATE TABLE reminders (id INTEGER PRIMARY KEY, invoice_id BIGINT NOT NULL, days BIGINT NOT NULL)"
        }
        DatabaseKind::Postgres => {
            "CREATE TABLE invoices (id BIGSERIAL PRIMARY KEY, total BIGINT NOT NULL);
             CREATE TABLE reminders (id BIGSERIAL PRIMARY KEY, invoice_id BIGINT NOT NULL, days BIGINT NOT NULL)"
        }
    })
    .await?;
    db.execute("CREATE TABLE audit_log (who TEXT, tab TEXT, row_key TEXT, json TEXT)").await?;
    // Reports mistakes at start-up, such as a receiver without its state or a table that does not match its model.
    db.check().await?;

    let of_request = db.with(CurrentUser("ann"));
    Invoice { id: None, total: 30 }.save(&of_request).await?;
    let refused = Invoice { id: None, total: -1 }.save(&of_request).await.unwrap_err();
    println!("{refused}");

    let log: Vec<(String, String, String, String)> =
        db.query("SELECT who, tab, row_key, json FROM audit_log").fetch_all().await?;
    println!("{log:?}\n");
    assert_eq!(log.len(), 2);
    assert_eq!((&*log[0].0, &*log[0].3), ("ann", r#"{"id":1,"total":30}"#));
    assert_eq!((&*log[1].0, &*log[1].1), ("ann", "reminders"));

    println!("{}", registry().receivers());
    let picture = registry().to_mermaid();
    println!("{picture}");
    // Only debug builds record what receivers do.
    assert_eq!(picture.contains("saves"), cfg!(debug_assertions));
    db.execute("DROP TABLE invoices; DROP TABLE reminders; DROP TABLE audit_log").await?;
    Ok(())
}
