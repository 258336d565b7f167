//! Each attempt runs a clone of the closure, and a closure that changes a variable around it has none.
use sqlx_signals::prelude::*;

#[derive(Clone, Model)]
struct User {
    id: Option<i64>,
}

async fn create(db: &Db, mut user: User) -> Result<()> {
    db.retry(3)
        .transaction(async |tx| {
            user.save(tx).await?;
            Ok(())
        })
        .await
}

fn main() {}
