//! Commands for the operators of a program that uses [sqlx-signals](https://docs.rs/sqlx-signals).
//!
//! The commands are part of the program, because only the program knows its receivers, its models and how to connect:
//!
//! ```no_run
//! use sqlx_signals::prelude::*;
//!
//! #[tokio::main]
//! async fn main() -> Result<()> {
//!     let command = signals_cli::from_args();
//!     let db = Db::connect("sqlite:shop.db").await?;
//!     if let Some(command) = command {
//!         println!("{}", command.run(&db).await?);
//!         return Ok(());
//!     }
//!     // … the program itself
//!     Ok(())
//! }
//! ```
//!
//! ```text
//! shop signals status                     counts the deliveries of each receiver
//! shop signals list --state dead          lists deliveries, the newest first
//! shop signals retry 17 18                makes deliveries due now
//! shop signals retry --all --state dead   the same for all that are dead
//! shop signals discard 17                 deletes deliveries without running them
//! shop signals list --state done          lists kept deliveries, of receivers with `keep`
//! shop signals replay 17                  runs kept deliveries again
//! shop signals replay --all --queue mail  the same for all that are kept
//! shop signals graph --format dot         draws the receivers
//! shop signals check                      compares the models with the tables
//! ```
//!
//! A program that defines its own commands with clap adds [`Command`] as a subcommand:
//!
//! ```
//! #[derive(clap::Parser)]
//! struct Args {
//!     #[command(subcommand)]
//!     command: Option<Commands>,
//! }
//!
//! #[derive(clap::Subcommand)]
//! enum Commands {
//!     /// Durable receivers and their deliveries
//!     #[command(subcommand)]
//!     Signals(signals_cli::Command),
//! }
//! # use clap::Parser;
//! # assert!(Args::try_parse_from(["shop", "signals", "retry", "17"]).is_ok());
//! ```

mod table;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sqlx_signals::durable::{DeliveryFilter, DeliveryState};
use sqlx_signals::{Db, Error, Result, registry};

/// A command for operators.
///
/// See the examples of the [crate].
#[derive(Debug, Clone, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Count the deliveries of each receiver
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Count all deliveries, not only a thousand of each receiver
        #[arg(long)]
        exact: bool,
    },
    /// List deliveries, the newest first
    List {
        /// Which deliveries.
        #[command(flatten)]
        filter: Filter,
        /// The maximum number of deliveries
        #[arg(long, default_value_t = 20)]
        limit: usize,
        /// Only the deliveries after this one in the list
        #[arg(long)]
        after: Option<i64>,
        /// Print JSON with all columns, and with the payloads
        #[arg(long)]
        json: bool,
    },
    /// Make deliveries due now, with all their attempts left
    Retry {
        /// The deliveries
        #[arg(required_unless_present = "all", conflicts_with_all = ["all", "receiver", "queue", "state"])]
        ids: Vec<i64>,
        /// All failed deliveries that match the filters
        #[arg(long)]
        all: bool,
        /// Which deliveries.
        #[command(flatten)]
        filter: Filter,
    },
    /// Delete deliveries without running them
    Discard {
        /// The deliveries
        #[arg(required = true)]
        ids: Vec<i64>,
    },
    /// Run kept deliveries again
    Replay {
        /// The deliveries
        #[arg(required_unless_present = "all", conflicts_with_all = ["all", "receiver", "queue"])]
        ids: Vec<i64>,
        /// All kept deliveries that match the filters
        #[arg(long)]
        all: bool,
        /// Only deliveries of this receiver
        #[arg(long)]
        receiver: Option<String>,
        /// Only deliveries of the receivers of this queue
        #[arg(long)]
        queue: Option<String>,
    },
    /// Draw the receivers of the program
    Graph {
        /// The language of the graph
        #[arg(long, value_enum, default_value = "mermaid")]
        format: GraphFormat,
    },
    /// Compare the models and receivers of the program with the database
    Check,
}

/// Selects deliveries.
#[derive(Debug, Clone, Default, Args)]
#[non_exhaustive]
pub struct Filter {
    /// Only deliveries of this receiver
    #[arg(long)]
    pub receiver: Option<String>,
    /// Only deliveries of the receivers of this queue
    #[arg(long)]
    pub queue: Option<String>,
    /// Only deliveries in this state
    #[arg(long, value_enum)]
    pub state: Option<State>,
}

/// The state of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum State {
    Waiting,
    Running,
    Retrying,
    Dead,
    Done,
}

/// The language of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum GraphFormat {
    Mermaid,
    Dot,
    Json,
}

#[derive(Parser)]
#[command(about = "Durable receivers and their deliveries")]
struct Only {
    #[command(subcommand)]
    command: Command,
}

/// Parses the command-line arguments of the process. Returns `None` if the first argument is not `signals`.
///
/// If the arguments after `signals` are not a valid command, or ask for help, this prints the message of clap and exits the process.
///
/// See the example of the [crate].
pub fn from_args() -> Option<Command> {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let signals = args.next().filter(|first| first == "signals")?;
    let name = format!("{} {}", program.display(), signals.display());
    Some(Only::parse_from(std::iter::once(name.into()).chain(args)).command)
}

impl Filter {
    fn selected(&self) -> DeliveryFilter {
        let mut filter = DeliveryFilter::new();
        if let Some(receiver) = &self.receiver {
            filter = filter.receiver_name(receiver);
        }
        if let Some(queue) = &self.queue {
            filter = filter.queue(queue);
        }
        match self.state {
            None => filter,
            Some(State::Waiting) => filter.state(DeliveryState::Waiting),
            Some(State::Running) => filter.state(DeliveryState::Running),
            Some(State::Retrying) => filter.state(DeliveryState::Retrying),
            Some(State::Dead) => filter.state(DeliveryState::Dead),
            Some(State::Done) => filter.state(DeliveryState::Done),
        }
    }
}

impl Command {
    /// Executes the command, and returns its output.
    ///
    /// See the example of the [crate].
    ///
    /// # Errors
    ///
    /// The errors of the database, and [`Error::Check`] if `check` finds a difference.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some of the deliveries may already be retried, discarded or replayed.
    pub async fn run(self, db: &Db) -> Result<String> {
        let deliveries = db.deliveries();
        match self {
            Self::Status { json, exact } => {
                let status = if exact {
                    deliveries.status().await?
                } else {
                    deliveries.bounded_status().await?
                };
                if json { to_json(&status) } else { Ok(status.to_string().trim_end().to_owned()) }
            }
            Self::List { filter, limit, after, json } => {
                let mut selected = filter.selected().newest_first().limit(limit);
                if let Some(id) = after {
                    selected = selected.after_id(id);
                }
                if json {
                    return to_json(&deliveries.list(selected).await?);
                }
                Ok(table::of(&deliveries.list(selected.without_payloads()).await?))
            }
            Self::Retry { all: true, filter, .. } => {
                Ok(format!("{} retried", deliveries.retry_all(filter.selected()).await?))
            }
            Self::Retry { ids, .. } => {
                let mut lines = Vec::new();
                for id in ids {
                    lines.push(changed(id, deliveries.retry(id).await?, "retried"));
                }
                Ok(lines.join("\n"))
            }
            Self::Discard { ids } => {
                let mut lines = Vec::new();
                for id in ids {
                    lines.push(changed(id, deliveries.discard(id).await?, "discarded"));
                }
                Ok(lines.join("\n"))
            }
            Self::Replay { all: true, receiver, queue, .. } => {
                let filter = Filter { receiver, queue, state: None };
                Ok(format!("{} replayed", deliveries.replay_all(filter.selected()).await?))
            }
            Self::Replay { ids, .. } => {
                let mut lines = Vec::new();
                for id in ids {
                    let is_replayed = deliveries.replay_one(id).await?;
                    let unchanged = "unchanged: it is not kept";
                    lines
                        .push(format!("{id} {}", if is_replayed { "replayed" } else { unchanged }));
                }
                Ok(lines.join("\n"))
            }
            Self::Graph { format: GraphFormat::Mermaid } => Ok(registry().to_mermaid()),
            Self::Graph { format: GraphFormat::Dot } => Ok(registry().to_dot()),
            Self::Graph { format: GraphFormat::Json } => Ok(registry().to_json()),
            Self::Check => {
                db.check().await?;
                Ok("the models and the receivers match the database".to_owned())
            }
        }
    }
}

fn changed(id: i64, is_changed: bool, verb: &str) -> String {
    if is_changed {
        format!("{id} {verb}")
    } else {
        format!("{id} unchanged: it is running, or gone")
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(Error::other)
}
