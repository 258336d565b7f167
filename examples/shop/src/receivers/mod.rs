//! What happens when a row is saved. None of the pages calls any of this.

pub mod audit;
pub mod live;
pub mod mail;
pub mod search;
pub mod stock;
