//! A table and its rows without the type of the model: schema, SQL text, batches, values.
//!
//! May import: `error`, `task`, `database`.

pub(crate) mod any;
pub(crate) mod automatic;
pub(crate) mod cache;
pub(crate) mod chunk;
pub(crate) mod column;
pub(crate) mod compose;
mod compose_given;
mod expression;
pub(crate) mod field;
pub(crate) mod json_column;
pub(crate) mod notation;
pub(crate) mod previous_row;
pub(crate) mod rows;
pub(crate) mod schema;
pub(crate) mod statement_spec;
