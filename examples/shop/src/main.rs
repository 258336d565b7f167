//! Serves the shop, or runs a command of its operators, such as `cargo run -p shop -- signals status`.

use std::net::{Ipv4Addr, SocketAddr};

use shop::receivers::live::Live;
use sqlx_signals::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let command = signals_cli::from_args();
    tracing_subscriber::fmt().init();
    let url = std::env::var("DATABASE_URL").unwrap_or_else(|_| {
        format!("sqlite:{}", std::env::temp_dir().join("sqlx-signals-shop.db").display())
    });
    let port = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let db = shop::open(&url).await?;
    if let Some(command) = command {
        println!("{}", command.run(&db).await?);
        return Ok(());
    }
    let worker = db.deliveries().worker().spawn().await?;
    let listener =
        tokio::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    println!("The shop is open: http://{}", listener.local_addr()?);
    let stopped = stopped(db.clone());
    axum::serve(listener, shop::web::app(db.clone())).with_graceful_shutdown(stopped).await?;
    // Waits for the mails that are being sent. What is left is sent after the next start.
    worker.shutdown().await?;
    db.close().await;
    Ok(())
}

/// Waits for Ctrl-C, then ends the connections of the pages that wait for updates.
async fn stopped(db: Db) {
    let _ = tokio::signal::ctrl_c().await;
    if let Some(live) = db.state::<Live>() {
        live.stop();
    }
}
