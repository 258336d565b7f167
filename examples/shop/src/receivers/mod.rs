//! Side effects of saves. No handler calls these functions.

pub mod audit;
pub mod live;
pub mod mail;
pub mod search;
pub mod stock;
