#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
struct User {
    id: Option<i64>,
    name: String,
}

async fn sign_up(db: Db, mut user: User) -> Result<()> {
    db.transaction(|tx| async move {
        user.save(tx).await?;
        Ok(())
    })
    .await
}

fn main() {}
