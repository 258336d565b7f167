//! The `Db` of the process, for receivers of writes that do not go through a `Db`.

use arc_swap::ArcSwapOption;

use crate::database::backend::DatabaseKind;
use crate::database::db::Db;

/// One for each [`DatabaseKind`].
static DEFAULT: [ArcSwapOption<Db>; 2] = [const { ArcSwapOption::const_empty() }; 2];

impl Db {
    /// Makes this the `Db` of the process: receivers get its [`State`](crate::State) values, and it itself as a parameter `db: Db`, if a
    /// write does not go through a `Db` but through a pool or connection of sqlx.
    ///
    /// A program calls this once, when it starts. There is one default for SQLite and one for PostgreSQL. A second call replaces the
    /// first one. A write through a pool of sqlx gives receivers that pool, with the values of the default.
    ///
    /// ```standalone_crate
    /// # use sqlx_signals::prelude::*;
    /// #[derive(Clone)]
    /// struct Mailer;
    /// # impl Mailer { async fn send(&self, _: &str) {} }
    ///
    /// #[derive(Clone, Model)]
    /// struct User { id: Option<i64>, name: String }
    ///
    /// #[receiver(post_save, sender = User, on_commit)]
    /// async fn welcome(saved: PostSave<'_, User>, State(mailer): State<Mailer>) {
    ///     mailer.send(&saved.instance.name).await;
    /// }
    ///
    /// # #[tokio::main] async fn main() -> Result<()> {
    /// # let options = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1);
    /// # let pool = options.connect("sqlite::memory:").await?;
    /// # sqlx::query("CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT NOT NULL)").execute(&pool).await?;
    /// Db::from(pool.clone()).with(Mailer).make_default();
    ///
    /// // Code that knows only sqlx's pool:
    /// User { id: None, name: "Ann".into() }.save(&pool).await?;
    /// # Ok(()) }
    /// ```
    pub fn make_default(&self) {
        DEFAULT[self.kind() as usize].store(Some(self.clone().into()));
    }

    /// The `Db` of the process for this database.
    pub(crate) fn default_of(kind: DatabaseKind) -> Option<Self> {
        DEFAULT[kind as usize].load().as_deref().cloned()
    }
}
