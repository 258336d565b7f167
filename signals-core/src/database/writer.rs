//! What a writer of a SQLite database does, for the queue of the writers.

use std::panic::Location;

/// What a turn is for, for the error of a writer that waits too long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    pub(crate) verb: Verb,
    /// The name of the model or signal; empty for a transaction of the program.
    pub(crate) model: &'static str,
    /// Where the program made the call.
    pub(crate) caller: Option<&'static Location<'static>>,
    /// Whether the write may share a COMMIT with others.
    pub(crate) shares_commit: bool,
}

impl Writer {
    pub(crate) fn of(verb: Verb, model: &'static str) -> Self {
        Self { verb, model, caller: None, shares_commit: false }
    }

    /// With whether the write may share a COMMIT with others.
    pub(crate) fn sharing_commit(self, shares_commit: bool) -> Self {
        Self { shares_commit, ..self }
    }

    pub(super) fn id(&self) -> WriterId {
        (self.verb, self.model)
    }

    /// A transaction of the program.
    pub(crate) fn transaction(caller: Option<&'static Location<'static>>) -> Self {
        Self { verb: Verb::Transaction, model: "", caller, shares_commit: false }
    }
}

/// What a writer does. An enum, because a `Writer` is part of the future of every save.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(not(feature = "durable"), allow(dead_code))]
pub(crate) enum Verb {
    Save,
    Delete,
    Send,
    Transaction,
    Claim,
    Renew,
    Acknowledge,
    Fail,
    MakeDue,
    GiveBack,
    Release,
    Retry,
    Discard,
    Prune,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Delete => "delete",
            Self::Send => "send",
            Self::Transaction => "transaction",
            Self::Claim => "claim",
            Self::Renew => "renew",
            Self::Acknowledge => "acknowledge",
            Self::Fail => "fail",
            Self::MakeDue => "make due",
            Self::GiveBack => "give back",
            Self::Release => "release",
            Self::Retry => "retry",
            Self::Discard => "discard",
            Self::Prune => "prune",
        }
    }
}

/// The verb and the model of a write.
pub(super) type WriterId = (Verb, &'static str);
