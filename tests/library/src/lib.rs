//! A library of models, and of receivers that its users never name.

use sqlx_signals::prelude::*;

/// A model of the library.
#[derive(Debug, Clone, Model)]
#[model(table = "articles")]
pub struct Article {
    /// Assigned by the database.
    pub id: Option<i64>,
    /// May be changed by a receiver.
    pub title: String,
}

/// Written by the library's receiver.
#[derive(Debug, Clone, Model)]
#[model(table = "revisions")]
pub struct Revision {
    /// Assigned by the database.
    pub id: Option<i64>,
    /// The article of the revision.
    pub article_id: i64,
}

/// `sqlx-signals` as this library re-exports it.
pub mod signals {
    pub use sqlx_signals::*;
}

mod receivers {
    use super::{Article, Revision};
    use sqlx_signals::prelude::*;

    /// Stores a revision for every save of an article.
    #[receiver(post_save, sender = Article)]
    async fn keep_revision(saved: PostSave<'_, Article>, conn: &mut Conn<'_>) -> Result<()> {
        Revision { id: None, article_id: saved.pk() }.save(conn).await?;
        Ok(())
    }
}
