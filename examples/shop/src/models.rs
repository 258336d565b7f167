//! The tables of the shop.

use sqlx_signals::prelude::*;

/// A customer.
#[derive(Debug, Clone, Model)]
#[model(table = "users")]
pub struct User {
    /// The key, once the database has assigned it.
    pub id: Option<i64>,
    /// The name that the pages show.
    pub name: String,
    /// The address to which the mailer sends.
    #[model(unique)]
    pub email: String,
}

/// Something that the shop sells.
#[derive(Debug, Clone, Model)]
#[model(table = "products")]
pub struct Product {
    /// The key, once the database has assigned it.
    pub id: Option<i64>,
    /// The name, which no other product has.
    #[model(unique)]
    pub name: String,
    /// A sentence about the product.
    pub about: String,
    /// The price in cents.
    pub price: i64,
    /// How many pieces are left.
    pub stock: i64,
    /// Detects that two people edit the product at the same time.
    #[model(version)]
    pub version: i64,
}

/// An order of one product.
#[derive(Debug, Clone, Model)]
#[model(table = "orders")]
pub struct Order {
    /// The key, once the database has assigned it.
    pub id: Option<i64>,
    /// The customer who placed the order.
    #[model(belongs_to = User, on_delete = restrict)]
    pub user_id: i64,
    /// The ordered product.
    #[model(belongs_to = Product, on_delete = restrict)]
    pub product_id: i64,
    /// The number of pieces.
    pub quantity: i64,
    /// One of [`STATES`].
    pub state: String,
    /// Detects that two people change the order at the same time.
    #[model(version)]
    pub version: i64,
}

/// The states of an order, each of which follows the previous one.
pub const STATES: [&str; 3] = ["new", "paid", "shipped"];

impl Order {
    /// The state after the current one.
    pub fn next_state(&self) -> Option<&'static str> {
        let current = STATES.iter().position(|state| *state == self.state)?;
        STATES.get(current + 1).copied()
    }
}

/// An entry of the audit log: a change, and the user who made it.
#[derive(Debug, Clone, Model)]
#[model(table = "audit_log")]
pub struct AuditEntry {
    /// The key, once the database has assigned it.
    pub id: Option<i64>,
    /// The user of the request. `None` is the shop itself.
    pub user_id: Option<i64>,
    /// What was changed, such as `Order 7 created`.
    pub change: String,
}

/// The searchable text of a product.
#[derive(Debug, Clone, Model)]
#[model(table = "search_index")]
pub struct SearchEntry {
    /// The product.
    #[model(primary_key)]
    pub product_id: i64,
    /// Its words in lower case.
    pub words: String,
}
