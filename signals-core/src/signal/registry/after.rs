use std::any::TypeId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::signal::entry::Registration;
use crate::table::any::AnyModel;
use crate::task::info::Phase;

type Linked = Vec<&'static Registration>;

/// Moves each receiver back, behind those that it runs `after`, and no further; the others keep their order. Returns the
/// order, and a sentence about each `after` that cannot hold and is ignored.
pub(super) fn sort(receivers: Linked) -> (Linked, Vec<String>) {
    if receivers.iter().all(|r| r.info.after.is_empty()) {
        return (receivers, Vec::new());
    }
    let mut waits = waits(&receivers);
    let mut mistakes = Vec::new();
    // A receiver of several senders is registered for each of them, and its mistake is one.
    let mut too_late = HashSet::new();
    let pair = |receiver: usize, other: usize| {
        (receivers[receiver].info.receiver, receivers[other].info.receiver)
    };
    for (receiver, waits) in waits.iter().enumerate() {
        for other in waits {
            if let Some(mistake) = cannot_follow(receivers[receiver], receivers[*other])
                && too_late.insert(pair(receiver, *other))
            {
                mistakes.push(mistake);
            }
        }
    }
    for (receiver, waits) in waits.iter_mut().enumerate() {
        waits.retain(|other| !too_late.contains(&pair(receiver, *other)));
    }
    while let Some(circle) = circle(&waits) {
        let members = circle.iter().chain(&circle[..1]);
        let names: Vec<_> = members.map(|r| format!("`{}`", receivers[*r].info.name)).collect();
        let names = names.join(" after ");
        let mistake = format!("receivers are each said to run `after` another: {names}");
        if !mistakes.contains(&mistake) {
            mistakes.push(mistake);
        }
        for (place, receiver) in circle.iter().enumerate() {
            let next = circle[(place + 1) % circle.len()];
            waits[*receiver].retain(|other| *other != next);
        }
    }
    for (receiver, waits) in waits.iter_mut().enumerate() {
        waits.retain(|other| meet(receivers[receiver], receivers[*other]));
    }
    let order = in_order(&waits);
    (order.into_iter().map(|place| receivers[place]).collect(), mistakes)
}

/// For each receiver, those that it runs `after`. One of several senders is registered for each.
fn waits(receivers: &Linked) -> Vec<Vec<usize>> {
    let mut places: HashMap<TypeId, Vec<usize>> = HashMap::new();
    for (place, receiver) in receivers.iter().enumerate() {
        places.entry(receiver.info.receiver).or_default().push(place);
    }
    let waits = receivers.iter().map(|receiver| {
        let after: HashSet<_> = receiver.info.after.iter().collect();
        let mut waits: Vec<_> =
            after.iter().filter_map(|r| places.get(r)).flatten().copied().collect();
        waits.sort_unstable();
        waits
    });
    waits.collect()
}

/// Whether two receivers can run for one event, in one phase: elsewhere there is no order to be kept.
fn meet(one: &Registration, other: &Registration) -> bool {
    one.info.phase == other.info.phase && hear_the_same(one, other)
}

/// Whether two receivers can run for one event.
fn hear_the_same(one: &Registration, other: &Registration) -> bool {
    let any = TypeId::of::<dyn AnyModel>();
    let senders = one.sender == other.sender || one.sender == any || other.sender == any;
    one.signal == other.signal && senders
}

/// Says that a receiver cannot run after another one, because the phase of that one does not come first for any event.
fn cannot_follow(receiver: &Registration, other: &Registration) -> Option<String> {
    let phases = (receiver.info.phase, other.info.phase);
    let why = match phases {
        (Phase::InTransaction, Phase::OnCommit | Phase::OnRollback) => "which runs later",
        (Phase::OnCommit, Phase::OnRollback) | (Phase::OnRollback, Phase::OnCommit) => {
            "and only one of them runs for an event"
        }
        _ => return None,
    };
    let (Registration { info: one, .. }, Registration { info: two, .. }) = (receiver, other);
    hear_the_same(receiver, other).then(|| {
        format!(
            "receiver `{}` ({}:{}, {}) cannot run `after` `{}` ({}), {why}",
            one.name, one.file, one.line, phases.0, two.name, phases.1
        )
    })
}

/// The smallest order of places in which each comes behind those that it waits for. Those that wait in a circle are left out.
fn in_order(waits: &[Vec<usize>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = waits.iter().map(Vec::len).collect();
    let mut behind = vec![Vec::new(); waits.len()];
    for (place, waits) in waits.iter().enumerate() {
        waits.iter().for_each(|other| behind[*other].push(place));
    }
    let free = waiting.iter().enumerate().filter(|(_, waiting)| **waiting == 0);
    let mut free: BinaryHeap<_> = free.map(|(place, _)| Reverse(place)).collect();
    let mut order = Vec::with_capacity(waits.len());
    while let Some(Reverse(place)) = free.pop() {
        order.push(place);
        for other in &behind[place] {
            waiting[*other] -= 1;
            if waiting[*other] == 0 {
                free.push(Reverse(*other));
            }
        }
    }
    order
}

/// The members of a circle, each of which waits for the next one; the first in the order of the receivers comes first.
fn circle(waits: &[Vec<usize>]) -> Option<Vec<usize>> {
    let placed: HashSet<_> = in_order(waits).into_iter().collect();
    let mut at = (0..waits.len()).find(|place| !placed.contains(place))?;
    let (mut path, mut seen) = (Vec::new(), HashSet::new());
    // One that was left out waits for another one that was left out.
    while seen.insert(at) {
        path.push(at);
        at = waits[at].iter().copied().find(|other| !placed.contains(other))?;
    }
    let start = path.iter().position(|place| *place == at)?;
    let mut circle = path.split_off(start);
    let first = circle.iter().enumerate().min_by_key(|(_, place)| **place)?.0;
    circle.rotate_left(first);
    Some(circle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_receiver_that_waits_moves() {
        // 0 waits for 2.
        assert_eq!(in_order(&[vec![2], vec![], vec![], vec![]]), [1, 2, 0, 3]);
        // 3 is behind 1 anyway.
        assert_eq!(in_order(&[vec![], vec![], vec![], vec![1]]), [0, 1, 2, 3]);
    }

    #[test]
    fn a_receiver_comes_behind_all_that_it_waits_for_and_so_do_those_that_wait_for_it() {
        assert_eq!(in_order(&[vec![1, 3], vec![], vec![0], vec![], vec![]]), [1, 3, 0, 2, 4]);
    }

    #[test]
    fn a_circle_is_found_behind_those_that_wait_for_it() {
        assert_eq!(circle(&[vec![2], vec![], vec![3], vec![2]]), Some(vec![2, 3]));
        assert_eq!(circle(&[vec![], vec![1]]), Some(vec![1]));
        assert_eq!(circle(&[vec![1], vec![]]), None);
    }

    #[test]
    fn a_long_chain_needs_no_more_stack_than_a_short_one() {
        let mut waits: Vec<_> = (0..50_000).map(|place| vec![place + 1]).collect();
        waits.push(Vec::new());
        assert_eq!(in_order(&waits)[..2], [50_000, 49_999]);
        assert_eq!(circle(&waits), None);
    }
}
