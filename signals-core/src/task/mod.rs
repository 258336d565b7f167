//! What is known about the running task: its chain of operations and receivers, the receivers that it mutes, and the task on
//! whose behalf it runs. Also futures that continue after their caller has dropped them.
//!
//! May import: `error`.

pub(crate) mod chain;
pub(crate) mod closures;
pub(crate) mod finish;
pub(crate) mod identity;
pub(crate) mod info;
pub(crate) mod intern;
pub(crate) mod measure;
pub(crate) mod mute;
pub(crate) mod observed;
pub(crate) mod origin;
pub(crate) mod pool_id;
#[cfg(feature = "durable")]
pub(crate) mod running_delivery;
pub(crate) mod slow;
pub(crate) mod span;
pub(crate) mod spawn;
pub(crate) mod tracked;
