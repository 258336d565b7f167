//! The description of a receiver, independent of the types of its signal and model.

use std::any::TypeId;
use std::fmt;

/// A type that identifies a receiver. `#[receiver]` generates it with the same name as the function.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// # #[derive(Model)]
/// # struct City { id: Option<i64>, name: String }
/// use sqlx_signals::Receiver;
///
/// #[receiver(post_save, sender = City)]
/// fn log(saved: PostSave<'_, City>) {
///     println!("{}", saved.instance.name);
/// }
///
/// fn name<R: Receiver>() -> &'static str {
///     registry().get::<R>().name()
/// }
/// assert!(name::<log>().ends_with("log"));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a receiver",
    label = "not a receiver",
    note = "`#[receiver]` on a function makes a type of the function's name"
)]
pub trait Receiver: Send + Sync + 'static {}

/// When a receiver runs.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// use sqlx_signals::Phase;
///
/// # #[derive(Model, Clone)]
/// # struct City { id: Option<i64>, name: String }
/// #[receiver(post_save, sender = City, on_commit)]
/// fn announce(saved: PostSave<'_, City>) {
///     println!("{} is stored", saved.instance.name);
/// }
///
/// assert_eq!(registry().get::<announce>().phase(), Phase::OnCommit);
/// assert_eq!(Phase::OnCommit.to_string(), "on commit");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Immediately, inside the transaction.
    InTransaction,
    /// After the outermost transaction has committed.
    OnCommit,
    /// After a rollback of the outermost transaction, or of a savepoint around the write.
    OnRollback,
    /// After the outermost transaction has committed, in a worker, and again until it succeeds.
    Durable,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::InTransaction => "in transaction",
            Phase::OnCommit => "on commit",
            Phase::OnRollback => "on rollback",
            Phase::Durable => "durable",
        })
    }
}

/// The description of a receiver: everything except the function itself.
#[derive(Debug, Clone, Copy)]
pub struct Info {
    pub(crate) receiver: TypeId,
    pub(crate) name: &'static str,
    pub(crate) signal: &'static str,
    pub(crate) sender: &'static str,
    pub(crate) file: &'static str,
    pub(crate) line: u32,
    pub(crate) doc: &'static str,
    pub(crate) phase: Phase,
    /// Whether the receiver runs after the commit on a task of its own.
    pub(crate) detached: bool,
    /// Whether the receiver runs once for each row and transaction.
    pub(crate) once: bool,
    pub(crate) order: i32,
    pub(crate) created: Option<bool>,
    /// The receiver runs only if one of these columns has changed; empty means always.
    pub(crate) changed: &'static [&'static str],
    /// Whether the receiver takes the connection.
    pub(crate) connection: bool,
    /// Whether an error of the receiver is only logged.
    pub(crate) robust: bool,
    /// Whether the receiver can only fail by a panic: a function that is not async, takes only the event and returns nothing.
    pub(crate) infallible: bool,
    /// The receivers that must run before this one.
    pub(crate) after: &'static [TypeId],
    /// Receivers that share a `uid` are registered once; empty means no `uid`.
    pub(crate) uid: &'static str,
    /// The requirements of the receiver's parameters.
    pub(crate) asks: &'static [Asks],
    /// How a durable receiver is run. `None` for all other receivers.
    pub(crate) durable: Option<&'static DurableOptions>,
}

/// The options of a durable receiver. Times are in milliseconds.
#[derive(Debug, Clone, Copy)]
#[allow(unreachable_pub)]
pub struct DurableOptions {
    /// The group of receivers to which it belongs.
    pub queue: &'static str,
    /// The number of attempts after which a delivery is dead.
    pub max_attempts: u32,
    /// The delay after the first failed attempt, and the longest delay.
    pub backoff: (u64, u64),
    /// The same as the program has written it.
    pub backoff_text: &'static str,
    /// How long one attempt may take.
    pub timeout: u64,
    /// How many deliveries of the receiver run at a time in one worker. 0 means no limit of its own.
    pub concurrency: u32,
    /// How long a delivery waits before its first attempt.
    pub delay: u64,
    /// The ordering key as the program has written it. Empty without one.
    pub ordering_key: &'static str,
    /// Whether the deliveries of an ordering key continue after a dead one.
    pub skips_dead: bool,
    /// The key by which deliveries are combined, as the program has written it. Empty without one.
    pub coalesce: &'static str,
    /// For how long a delivery is kept after success. 0: it is deleted.
    pub keep: u64,
    /// The same as the program has written it. Empty without `keep`.
    pub keep_text: &'static str,
    /// Former names of the receiver, whose deliveries it takes too.
    pub was: &'static [&'static str],
}

impl DurableOptions {
    /// The options of events that a relay publishes. They are tried without a limit, because a broker can be down for long.
    pub const fn published(ordering_key: &'static str) -> Self {
        Self {
            queue: "publish",
            max_attempts: u32::MAX,
            backoff: (1000, 30_000),
            backoff_text: "1s..30s",
            ordering_key,
            ..Self::subscribed()
        }
    }

    /// The options of messages that could not be taken when they were received. They are those of a receiver without options.
    pub const fn subscribed() -> Self {
        Self {
            queue: "default",
            max_attempts: 20,
            backoff: (1000, 3_600_000),
            backoff_text: "1s..1h",
            timeout: 60_000,
            concurrency: 0,
            delay: 0,
            ordering_key: "",
            skips_dead: false,
            coalesce: "",
            keep: 0,
            keep_text: "",
            was: &[],
        }
    }
}

/// What a parameter of a receiver requires, other than the event.
#[derive(Debug, Clone, Copy)]
pub enum Asks {
    /// Nothing that must be available before the receiver runs.
    Nothing,
    /// The connection.
    Connection,
    /// The stored delivery.
    Delivery,
    /// The row before the write.
    Previous,
    /// A value that was added to the `Db`.
    State {
        /// Its type.
        id: TypeId,
        /// The name of its type.
        name: fn() -> &'static str,
    },
}

impl Asks {
    /// How many of the parameters are the connection.
    const fn connections(all: &[Self]) -> usize {
        let (mut count, mut i) = (0, 0);
        while i < all.len() {
            if matches!(all[i], Self::Connection) {
                count += 1;
            }
            i += 1;
        }
        count
    }

    /// Whether one of the parameters is the connection.
    pub const fn connection(all: &[Self]) -> bool {
        Self::connections(all) > 0
    }

    /// Whether a durable receiver with these parameters can recognize the repetition of a delivery, or undo its own writes.
    pub const fn connection_or_delivery(all: &[Self]) -> bool {
        let mut i = 0;
        while i < all.len() {
            if matches!(all[i], Self::Connection | Self::Delivery) {
                return true;
            }
            i += 1;
        }
        false
    }

    /// Whether the parameter is a value of the `Db`, which may be missing.
    pub(crate) const fn is_state(self) -> bool {
        matches!(self, Self::State { .. })
    }

    /// Whether the parameter is the row before the write.
    pub const fn is_previous(self) -> bool {
        matches!(self, Self::Previous)
    }
}

impl Info {
    /// The description of a receiver with no options set. `receiver` is its [`Receiver`] type.
    pub(crate) const fn of(
        receiver: TypeId,
        name: &'static str,
        file: &'static str,
        line: u32,
    ) -> Self {
        Self {
            receiver,
            name,
            signal: "",
            sender: "",
            file,
            line,
            doc: "",
            phase: Phase::InTransaction,
            detached: false,
            once: false,
            order: 0,
            created: None,
            changed: &[],
            connection: false,
            robust: false,
            infallible: false,
            after: &[],
            uid: "",
            asks: &[],
            durable: None,
        }
    }

    /// The name under which deliveries of the receiver are stored: its `uid`, or else the path of the function.
    #[cfg(feature = "durable")]
    pub(crate) fn stored_name(&self) -> &'static str {
        if self.uid.is_empty() { self.name } else { self.uid }
    }

    /// Whether the receiver requires that the row is read before the write.
    pub(crate) fn asks_previous(&self) -> bool {
        !self.changed.is_empty() || self.asks.iter().any(|asks| matches!(asks, Asks::Previous))
    }

    /// Runs the receiver on a task of its own.
    pub const fn detached(mut self) -> Self {
        self.detached = true;
        self
    }

    /// When the receiver runs, as reports print it.
    pub(crate) fn when(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            write!(f, "{}", self.phase)?;
            if let Some(DurableOptions { queue, max_attempts, backoff_text, .. }) = self.durable {
                match *max_attempts {
                    u32::MAX => write!(f, ", {queue}, unlimited × {backoff_text}")?,
                    attempts => write!(f, ", {queue}, {attempts} × {backoff_text}")?,
                }
                match self.durable.map_or("", |options| options.ordering_key) {
                    "" => {}
                    key => write!(f, ", by {key}")?,
                }
                match self.durable.map_or("", |options| options.coalesce) {
                    "" => {}
                    key => write!(f, ", coalesce {key}")?,
                }
                match self.durable.map_or("", |options| options.keep_text) {
                    "" => {}
                    time => write!(f, ", keep {time}")?,
                }
            }
            if self.detached {
                f.write_str(", detached")?;
            }
            if self.once { f.write_str(", once per transaction") } else { Ok(()) }
        })
    }

    /// Only logs an error of the receiver.
    pub const fn robust(mut self) -> Self {
        self.robust = true;
        self
    }

    /// The receiver can only fail by a panic.
    pub const fn infallible(mut self) -> Self {
        self.infallible = true;
        self
    }

    /// The receiver runs after these receivers.
    pub const fn after(mut self, after: &'static [TypeId]) -> Self {
        self.after = after;
        self
    }

    /// Sets the identity of the receiver: for each signal and sender, a `uid` is registered only once.
    pub const fn uid(mut self, uid: &'static str) -> Self {
        self.uid = uid;
        self
    }

    /// Sets the requirements of the receiver's parameters.
    pub const fn asks(mut self, asks: &'static [Asks]) -> Self {
        assert!(Asks::connections(asks) < 2, "a receiver has one connection, and takes it once");
        self.asks = asks;
        self.connection = Asks::connection(asks);
        self
    }

    /// Makes the receiver durable.
    pub const fn durable(mut self, options: &'static DurableOptions) -> Self {
        self.durable = Some(options);
        self
    }

    /// Sets the phase. The default is [`Phase::InTransaction`].
    pub const fn phase(mut self, phase: Phase) -> Self {
        self.phase = phase;
        self
    }

    /// Sets the order among the receivers: lower values run earlier.
    pub const fn order(mut self, order: i32) -> Self {
        self.order = order;
        self
    }
}
