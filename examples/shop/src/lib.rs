//! A shop on axum. Handlers save rows; all side effects are in [`receivers`].
//!
//! `cargo run -p shop` uses an SQLite file in the temporary directory. `DATABASE_URL` names another database, on SQLite or PostgreSQL.

pub mod models;
pub mod receivers;
pub mod web;

use sqlx::migrate::Migrator;
use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, Error};

use models::{Product, User};
use receivers::audit::CurrentUser;
use receivers::live::Live;
use receivers::mail::Mailer;

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// Connects to the database, creates the tables, and fills an empty shop.
///
/// # Errors
///
/// If the database cannot be reached, or if its tables do not match the models.
pub async fn open(url: &str) -> Result<Db> {
    let db = Db::connect(url).await?;
    let db = db.with(CurrentUser(None)).with(Mailer::default()).with(Live::default());
    db.migrate(match db.kind() {
        DatabaseKind::Sqlite => &SQLITE,
        DatabaseKind::Postgres => &POSTGRES,
    })
    .await?;
    db.deliveries().setup().await?;
    db.check().await?;
    if User::query("").count(&db).await? == 0 {
        fill(&db).await?;
    }
    Ok(db)
}

/// The first customers and products.
async fn fill(db: &Db) -> Result<()> {
    let user = |name: &str, email: &str| User { id: None, name: name.into(), email: email.into() };
    let product = |name: &str, about: &str, price, stock| Product {
        id: None,
        name: name.into(),
        about: about.into(),
        price,
        stock,
        version: 1,
    };
    let mut tx = db.begin().await?;
    let mut users = [user("Ann", "ann@example.org"), user("Bob", "bob@example.org")];
    User::insert_many(&mut tx, &mut users).await?;
    let mut products = [
        product("Lamp", "A reading lamp with a warm light.", 3_900, 12),
        product("Chair", "An oak chair for the kitchen.", 12_500, 7),
        product("Piano", "An upright piano. There is only one.", 450_000, 1),
    ];
    Product::insert_many(&mut tx, &mut products).await?;
    tx.commit().await?;
    Ok(())
}

/// A value that [`open`] has added to the `Db`.
fn value<T: Clone + 'static>(db: &Db) -> Result<T> {
    let missing = || Error::other(format!("no `{}`: use `shop::open`", std::any::type_name::<T>()));
    db.state().cloned().ok_or_else(missing)
}
