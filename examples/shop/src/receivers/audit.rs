//! The audit log.

use sqlx_signals::AnyModel;
use sqlx_signals::prelude::*;

use crate::models::{AuditEntry, Order, Product, User};

/// The user of the request. The layer of the router adds it to the `Db`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentUser(pub Option<i64>);

/// Records each save and the current user, in the same transaction as the save.
#[receiver(post_save, sender = [User, Product, Order])]
pub async fn log_change<M: Model>(
    saved: PostSave<'_, M>,
    State(user): State<CurrentUser>,
    conn: &mut Conn<'_>,
) -> Result<()> {
    let row: &dyn AnyModel = saved.instance;
    let verb = if saved.created { "created" } else { "changed" };
    let change = format!("{} {} {verb}", row.name(), row.key().unwrap_or_default());
    AuditEntry { id: None, user_id: user.0, change }.insert(conn).await?;
    Ok(())
}
