//! The stock, and the orders that are rejected.

use sqlx_signals::Error;
use sqlx_signals::prelude::*;

use crate::models::{Order, Product};

/// Why an order is rejected, as the customer reads it.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    /// The quantity is out of range.
    #[error("Please order between 1 and 10 pieces.")]
    Quantity,
    /// Not enough pieces are in stock.
    #[error("Only {left} × {name} left.")]
    OutOfStock {
        /// The name of the product.
        name: String,
        /// How many pieces are left.
        left: i64,
    },
}

/// Rejects a quantity outside 1 to 10 before any SQL is sent.
#[receiver(pre_save, sender = Order)]
pub fn check_quantity(save: PreSave<'_, Order>) -> Result<(), Rejected> {
    if (1..=10).contains(&save.instance.quantity) { Ok(()) } else { Err(Rejected::Quantity) }
}

/// Takes the pieces from the stock, or rejects the order, in the same transaction as the order.
#[receiver(post_save, sender = Order, created)]
pub async fn take_from_stock(saved: PostSave<'_, Order>, conn: &mut Conn<'_>) -> Result<()> {
    let order = saved.instance;
    let taken = conn
        .query(
            "UPDATE products SET stock = stock - $1, version = version + 1 WHERE id = $2 AND stock >= $1",
        )
        .bind(order.quantity)
        .bind(order.product_id)
        .execute()
        .await?;
    if taken == 0 {
        let Product { name, stock, .. } = Order::OF_PRODUCT.parent(conn, order).await?;
        return Err(Error::other(Rejected::OutOfStock { name, left: stock }));
    }
    Ok(())
}
