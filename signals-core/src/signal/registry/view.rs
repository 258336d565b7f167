//! The receivers of the program as a table, as a graph, and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::vec::IntoIter;

use serde_json::json;

use super::ReceiverInfo;
use crate::task::observed;

/// The receivers of the program, see [`Registry::receivers`](crate::Registry::receivers).
///
/// It is an iterator of [`ReceiverInfo`]. Its `Display` is a table of the receivers that the iterator has not returned yet.
///
/// ```
/// # use sqlx_signals::prelude::*;
/// let on_commit = registry().receivers().filter(|r| r.phase() == sqlx_signals::Phase::OnCommit);
/// println!("{} receivers run after the commit", on_commit.count());
/// ```
#[derive(Debug, Clone)]
pub struct Receivers {
    pub(super) all: IntoIter<ReceiverInfo>,
}

impl Iterator for Receivers {
    type Item = ReceiverInfo;

    fn next(&mut self) -> Option<ReceiverInfo> {
        self.all.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.all.size_hint()
    }
}

impl ExactSizeIterator for Receivers {}

const HEAD: [&str; 7] = ["signal", "sender", "receiver", "phase", "order", "place", "about"];

impl fmt::Display for Receivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cells = |r: &ReceiverInfo| {
            [
                r.signal().to_owned(),
                r.sender().to_owned(),
                r.name().to_owned(),
                r.identity.when().to_string(),
                r.order().to_string(),
                format!("{}:{}", r.file(), r.line()),
                r.doc().to_owned(),
            ]
        };
        write_table(f, HEAD, self.all.as_slice().iter().map(cells))
    }
}

/// Writes a head and rows in aligned columns.
pub(crate) fn write_table<const N: usize>(
    out: &mut impl Write,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> fmt::Result {
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            write!(line, "{cell:width$}  ")?;
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What a receiver has saved, deleted or sent in this process.
struct Seen {
    /// The index of the receiver.
    receiver: usize,
    verb: &'static str,
    what: &'static str,
}

impl Receivers {
    pub(super) fn to_mermaid(&self) -> String {
        // Escapes what Mermaid reads as markup.
        let label =
            |text: &str| text.replace('&', "#amp;").replace('"', "#quot;").replace('<', "#lt;");
        let mut graph = "flowchart LR\n".to_owned();
        let seen = self.seen();
        let senders = self.senders(&seen);
        for (sender, n) in &senders {
            let _ = writeln!(graph, "    m{n}([\"{}\"])", label(sender));
        }
        for (n, r) in self.all.as_slice().iter().enumerate() {
            let (sender, name, signal, phase) =
                (senders[source(r)], label(r.name()), r.signal(), r.identity.when());
            let _ =
                writeln!(graph, "    m{sender} -- \"{signal}<br>{phase}\" --> r{n}[\"{name}\"]");
        }
        for Seen { receiver, verb, what } in seen {
            let _ = writeln!(graph, "    r{receiver} -. \"{verb}s\" .-> m{}", senders[what]);
        }
        graph
    }

    pub(super) fn to_dot(&self) -> String {
        let quoted =
            |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut graph = "digraph receivers {\n    rankdir=LR;\n    node [shape=box];\n".to_owned();
        let seen = self.seen();
        let senders = self.senders(&seen);
        for (sender, n) in &senders {
            let _ = writeln!(graph, "    m{n} [shape=oval, label={}];", quoted(sender));
        }
        for (n, r) in self.all.as_slice().iter().enumerate() {
            let (sender, name) = (senders[source(r)], quoted(r.name()));
            let edge = quoted(&format!("{} ({})", r.signal(), r.identity.when()));
            let _ =
                writeln!(graph, "    r{n} [label={name}];\n    m{sender} -> r{n} [label={edge}];");
        }
        for Seen { receiver, verb, what } in seen {
            let (target, edge) = (senders[what], quoted(&format!("{verb}s")));
            let _ = writeln!(graph, "    r{receiver} -> m{target} [style=dashed, label={edge}];");
        }
        graph.push_str("}\n");
        graph
    }

    pub(super) fn to_json(&self) -> String {
        let receiver = |r: &ReceiverInfo| {
            let mut receiver = json!({
                "signal": r.signal(),
                "sender": r.sender(),
                "receiver": r.name(),
                "phase": r.phase().to_string(),
                "detached": r.is_detached(),
                "once_per_transaction": r.is_once_per_transaction(),
                "order": r.order(),
                "file": r.file(),
                "line": r.line(),
                "doc": r.doc(),
                "enabled": r.is_enabled(),
            });
            #[cfg(feature = "durable")]
            if let Some(name) = r.delivery_name() {
                receiver["deliveries"] = name.into();
            }
            for (verb, what) in observed::of(r.identity.info) {
                let seen = &mut receiver[format!("{verb}s")];
                match seen.as_array_mut() {
                    Some(seen) => seen.push(what.into()),
                    None => *seen = json!([what]),
                }
            }
            receiver
        };
        let all: Vec<_> = self.all.as_slice().iter().map(receiver).collect();
        serde_json::Value::from(all).to_string()
    }

    /// What receivers have done so far. It is read once for each graph, because other tasks add to it meanwhile.
    fn seen(&self) -> Vec<Seen> {
        let all = self.all.as_slice().iter().enumerate();
        all.flat_map(|(receiver, r)| {
            let edges = observed::of(r.identity.info).into_iter();
            edges.map(move |(verb, what)| Seen { receiver, verb, what })
        })
        .collect()
    }

    /// Numbers the nodes of the graph other than receivers: the models and custom signals that receivers subscribe to, have
    /// written or have sent.
    fn senders(&self, seen: &[Seen]) -> BTreeMap<&'static str, usize> {
        let senders = self.all.as_slice().iter().map(source);
        let all: BTreeSet<_> = senders.chain(seen.iter().map(|seen| seen.what)).collect();
        all.into_iter().enumerate().map(|(n, sender)| (sender, n)).collect()
    }
}

/// The node where a receiver's arrow starts: its sender, or the signal itself if it is a custom signal.
fn source(r: &ReceiverInfo) -> &'static str {
    if r.sender().is_empty() { r.signal() } else { r.sender() }
}
