#![allow(dead_code)]
use sqlx_signals::prelude::*;

async fn put<M: Model>(db: &Db, model: &mut M) -> Result<()> {
    model.save(db).await?;
    Ok(())
}

fn main() {}
