//! A library of models, and of receivers that its users never name.

use sqlx_signals::prelude::*;

/// A model of the library.
#[derive(Debug, Clone, Model)]
#[model(table = "articles")]
pub struct Article {
    /// Given by the database.
    pub id: Option<i64>,
    /// May be changed by a receiver.
    pub title: String,
}

/// What the library's receiver writes.
#[derive(Debug, Clone, Model)]
#[model(table = "revisions")]
pub struct Revision {
    /// Given by the database.
    pub id: Option<i64>,
    /// Whose revision.
    pub article_id: i64,
}

/// `sqlx-signals` as this library re-exports it.
pub mod signals {
    pub use sqlx_signals::*;
}

mod receivers {
    use super::{Article, Revision};
    use sqlx_signals::prelude::*;

    /// Every save of an article leaves a revision.
    #[receiver(post_save, sender = Article)]
    async fn keep_revision(saved: PostSave<'_, Article>, conn: &mut Conn<'_>) -> Result<()> {
        Revision { id: None, article_id: saved.pk() }.save(conn).await?;
        Ok(())
    }
}
