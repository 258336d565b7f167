use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::vec::IntoIter;

use serde_json::json;

use super::ReceiverInfo;

/// The receivers of the program: an iterator, and with `Display` an aligned table of those that are left.
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
                r.phase().to_string(),
                r.order().to_string(),
                format!("{}:{}", r.file(), r.line()),
                r.doc().to_owned(),
            ]
        };
        let head = HEAD.map(str::to_owned);
        let rows: Vec<_> =
            [head].into_iter().chain(self.all.as_slice().iter().map(cells)).collect();
        let width = |column: usize| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
        };
        let widths: [usize; HEAD.len()] = std::array::from_fn(width);
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                let _ = write!(line, "{cell:width$}  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Receivers {
    pub(super) fn to_mermaid(&self) -> String {
        // What Mermaid takes for markup, as the entities that it knows.
        let label =
            |text: &str| text.replace('&', "#amp;").replace('"', "#quot;").replace('<', "#lt;");
        let mut graph = "flowchart LR\n".to_owned();
        let senders = self.senders();
        for (sender, n) in &senders {
            let _ = writeln!(graph, "    m{n}([\"{}\"])", label(sender));
        }
        for (n, r) in self.all.as_slice().iter().enumerate() {
            let (sender, name, signal, phase) =
                (senders[source(r)], label(r.name()), r.signal(), r.phase());
            let _ =
                writeln!(graph, "    m{sender} -- \"{signal}<br>{phase}\" --> r{n}[\"{name}\"]");
        }
        graph
    }

    pub(super) fn to_dot(&self) -> String {
        let quoted =
            |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut graph = "digraph receivers {\n    rankdir=LR;\n    node [shape=box];\n".to_owned();
        let senders = self.senders();
        for (sender, n) in &senders {
            let _ = writeln!(graph, "    m{n} [shape=oval, label={}];", quoted(sender));
        }
        for (n, r) in self.all.as_slice().iter().enumerate() {
            let (sender, name) = (senders[source(r)], quoted(r.name()));
            let edge = quoted(&format!("{} ({})", r.signal(), r.phase()));
            let _ =
                writeln!(graph, "    r{n} [label={name}];\n    m{sender} -> r{n} [label={edge}];");
        }
        graph.push_str("}\n");
        graph
    }

    pub(super) fn to_json(&self) -> String {
        let receiver = |r: &ReceiverInfo| {
            json!({
                "signal": r.signal(),
                "sender": r.sender(),
                "receiver": r.name(),
                "phase": r.phase().to_string(),
                "order": r.order(),
                "file": r.file(),
                "line": r.line(),
                "doc": r.doc(),
                "enabled": r.is_enabled(),
            })
        };
        let all: Vec<_> = self.all.as_slice().iter().map(receiver).collect();
        serde_json::Value::from(all).to_string()
    }

    /// What signals come from, each with the number of its node. A signal of its own comes from itself.
    fn senders(&self) -> BTreeMap<&'static str, usize> {
        let senders: BTreeMap<_, _> = self.all.as_slice().iter().map(|r| (source(r), 0)).collect();
        senders.into_keys().enumerate().map(|(n, sender)| (sender, n)).collect()
    }
}

fn source(r: &ReceiverInfo) -> &'static str {
    if r.sender().is_empty() { r.signal() } else { r.sender() }
}
