//! Prints the metrics of writes and deliveries as Prometheus reads them.
//!
//! `cargo run -p metrics-example`

use metrics_exporter_prometheus::PrometheusBuilder;
use serde::{Deserialize, Serialize};
use sqlx_signals::Error;
use sqlx_signals::prelude::*;

#[derive(Debug, Model, Serialize, Deserialize)]
#[model(table = "users")]
struct User {
    id: Option<i64>,
    name: String,
}

/// Fails for Bob, who has no address.
#[receiver(post_save, sender = User, created, durable(queue = "mail", max_attempts = 1))]
async fn welcome(saved: PostSave<'_, User>, delivery: Delivery<'_>) -> Result<()> {
    println!("{}: welcome, {}", delivery.idempotency_key(), saved.instance.name);
    if saved.instance.name == "Bob" { Err(Error::other("no address")) } else { Ok(()) }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A web server would return `metrics.render()` for the path `/metrics`.
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let file = std::env::temp_dir().join(format!("signals_metrics_{}.db", std::process::id()));
    let db = Db::connect(&format!("sqlite:{}", file.display())).await?;
    db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").await?;
    db.deliveries().setup().await?;

    for name in ["Ann", "Bob", "Cid"] {
        User { id: None, name: name.into() }.save(&db).await?;
    }
    let worker = db.deliveries().worker().spawn().await?;
    while db.deliveries().status().await?.receivers[0].dead == 0
        || db.deliveries().status().await?.receivers[0].waiting > 0
    {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    worker.shutdown().await?;

    let text = metrics.render();
    println!("{text}");
    for line in [
        r#"sqlx_signals_deliveries_total{receiver="metrics_example::welcome",outcome="succeeded"} 2"#,
        r#"sqlx_signals_deliveries_total{receiver="metrics_example::welcome",outcome="dead"} 1"#,
    ] {
        assert!(text.contains(line), "{line}");
    }
    db.close().await;
    std::fs::remove_file(file)?;
    Ok(())
}
