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

/// Declares a model with a receiver, also in programs that do not depend on `sqlx-signals` themselves.
#[macro_export]
macro_rules! model_with_receiver {
    ($model:ident, $table:literal, $receiver:ident, $call:expr) => {
        #[derive(Debug, Clone, $crate::signals::Model)]
        #[model(table = $table, crate = $crate::signals)]
        struct $model {
            id: Option<i64>,
            n: i64,
        }

        // rustfmt would indent the arguments further each time.
        #[rustfmt::skip]
        #[$crate::signals::receiver($crate::signals::post_save, sender = $model, crate = $crate::signals)]
        fn $receiver(saved: $crate::signals::PostSave<'_, $model>) {
            $call(saved.instance.n)
        }
    };
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
