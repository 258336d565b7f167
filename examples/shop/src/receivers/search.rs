//! The search index.

use sqlx_signals::prelude::*;

use crate::models::{Product, SearchEntry};

/// Updates the words of a product whose name or text has changed.
#[receiver(post_save, sender = Product, changed(name, about))]
pub async fn index(saved: PostSave<'_, Product>, conn: &mut Conn<'_>) -> Result<()> {
    let Product { name, about, .. } = saved.instance;
    let words = format!("{name} {about}").to_lowercase();
    SearchEntry { product_id: saved.pk(), words }.save(conn).await?;
    Ok(())
}
