#![allow(dead_code, unused_variables, non_camel_case_types)]
use sqlx_signals::prelude::*;

#[derive(Debug, Clone, Model)]
struct User {
    id: Option<i64>,
    email: String,
}

#[receiver(post_save, sender = User, creatd)]
fn log(saved: PostSave<'_, User>) {}

#[receiver(post_save, sender = User, after = log)]
fn later(saved: PostSave<'_, User>) {}

async fn save(db: &Db, user: &mut User) -> Result<()> {
    registry().require::<log>()?;
    registry().get::<log>().disable();
    sqlx_signals::muted::<log, _>(user.save(db)).await?;
    Ok(())
}

fn main() {}
