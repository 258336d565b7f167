//! The text of the lock file.

use std::any::TypeId;
use std::fmt::Write;

use crate::signal::entry::Registration;
use crate::task::info::Info;

const HEAD: &str =
    "# The receivers of this program. `SIGNALS_LOCK=update cargo test` writes this file.\n";

/// One line for each receiver. File and line are left out, because they change with unrelated edits.
pub(super) fn text(linked: &[&'static Registration]) -> String {
    let name = |receiver: &TypeId| {
        let found = linked.iter().find(|linked| linked.info.receiver == *receiver);
        found.map_or("?", |linked| linked.info.name)
    };
    let line = |registration: &&'static Registration| {
        let info = registration.info;
        let Info { signal, sender, name: receiver, .. } = info;
        let from = if sender.is_empty() { "" } else { " of " };
        let mut line = format!("{signal}{from}{sender} → {receiver} ({})", info.when());
        if info.order != 0 {
            let _ = write!(line, " order = {}", info.order);
        }
        let mut after: Vec<_> = info.after.iter().map(name).collect();
        after.sort_unstable();
        after.iter().for_each(|other| line += &format!(" after = {other}"));
        match info.created {
            Some(true) => line += " created",
            Some(false) => line += " updated",
            None => {}
        }
        if !info.changed.is_empty() {
            let _ = write!(line, " changed({})", info.changed.join(", "));
        }
        if let Some(store) = registration.entry.store() {
            let _ = write!(line, " payload({})", store.columns().join(", "));
            let was = info.durable.map_or(&[][..], |options| options.was);
            was.iter().for_each(|name| line += &format!(" was = {name:?}"));
        }
        if info.robust {
            line += " robust";
        }
        if !info.uid.is_empty() {
            let _ = write!(line, " uid = {:?}", info.uid);
        }
        line
    };
    let mut lines: Vec<_> = linked.iter().map(line).collect();
    lines.sort_unstable();
    lines.into_iter().fold(HEAD.to_owned(), |text, line| text + &line + "\n")
}
