use std::any::TypeId;
use std::collections::{HashMap, HashSet};

use crate::receiver::Registration;

type Linked = Vec<&'static Registration>;

/// Moves each receiver behind those that it runs `after`, and leaves the order as it is where that allows it. Returns
/// the order, and the members of each circle; they stay where they are.
pub(super) fn sort(receivers: Linked) -> (Linked, Vec<String>) {
    if receivers.iter().all(|r| r.info.after.is_empty()) {
        return (receivers, Vec::new());
    }
    // A receiver of several senders is registered for each; whoever waits for it waits for all of them.
    let mut places: HashMap<TypeId, Vec<usize>> = HashMap::new();
    for (place, receiver) in receivers.iter().enumerate() {
        places.entry(receiver.info.receiver).or_default().push(place);
    }
    let mut visit = Visit {
        receivers: &receivers,
        places,
        state: HashMap::new(),
        path: Vec::new(),
        sorted: Vec::new(),
        circles: Vec::new(),
    };
    for place in 0..receivers.len() {
        visit.place(place);
    }
    (visit.sorted, visit.circles)
}

/// A depth-first walk, in the order of the receivers, that places each after those that it waits for.
struct Visit<'r> {
    receivers: &'r Linked,
    places: HashMap<TypeId, Vec<usize>>,
    state: HashMap<usize, State>,
    path: Vec<usize>,
    sorted: Linked,
    circles: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    UnderWay,
    Done,
}

impl Visit<'_> {
    fn place(&mut self, place: usize) {
        match self.state.get(&place) {
            Some(State::Done) => return,
            Some(State::UnderWay) => return self.circle(place),
            None => {}
        }
        self.state.insert(place, State::UnderWay);
        self.path.push(place);
        let after: HashSet<TypeId> = self.receivers[place].info.after.iter().copied().collect();
        let mut first: Vec<usize> =
            after.iter().filter_map(|r| self.places.get(r)).flatten().copied().collect();
        first.sort_unstable();
        for earlier in first {
            self.place(earlier);
        }
        self.path.pop();
        self.state.insert(place, State::Done);
        self.sorted.push(self.receivers[place]);
    }

    fn circle(&mut self, place: usize) {
        let start = self.path.iter().position(|p| *p == place).unwrap_or(0);
        let members = self.path[start..].iter().chain([&place]);
        let names: Vec<_> =
            members.map(|p| format!("`{}`", self.receivers[*p].info.name)).collect();
        self.circles.push(names.join(" after "));
    }
}
