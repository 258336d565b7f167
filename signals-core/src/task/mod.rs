//! What is known about the running task: its chain of operations and receivers, which receivers it mutes, and who
//! records it. Also futures that outlive the task that awaits them.
//!
//! May import: `error`.

pub(crate) mod chain;
pub(crate) mod finish;
pub(crate) mod info;
pub(crate) mod intern;
pub(crate) mod mute;
pub(crate) mod observed;
pub(crate) mod origin;
pub(crate) mod span;
pub(crate) mod spawn;
