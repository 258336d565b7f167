//! The option `after`: a stable topological sort of the receivers.

use std::any::TypeId;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use crate::signal::entry::Registration;
use crate::table::any::AnyModel;
use crate::task::info::Phase;

type Linked = Vec<&'static Registration>;

/// Moves each receiver behind the receivers that it names with `after`, and no further. The other receivers keep their order. Returns
/// the order, and a sentence about each `after` that cannot hold and is ignored.
pub(super) fn sort(receivers: Linked) -> (Linked, Vec<String>) {
    if receivers.iter().all(|r| r.info.after.is_empty()) {
        return (receivers, Vec::new());
    }
    let mut waits = waits(&receivers);
    let mut mistakes = Vec::new();
    // A receiver of several senders has a registration for each sender. Its mistake is reported once.
    let mut too_late = HashSet::new();
    let types = |receiver: usize, other: usize| {
        (receivers[receiver].info.receiver, receivers[other].info.receiver)
    };
    for (receiver, waits) in waits.iter().enumerate() {
        for other in waits {
            if let Some(mistake) = cannot_follow(receivers[receiver], receivers[*other])
                && too_late.insert(types(receiver, *other))
            {
                mistakes.push(mistake);
            }
        }
    }
    for (receiver, waits) in waits.iter_mut().enumerate() {
        waits.retain(|other| !too_late.contains(&types(receiver, *other)));
    }
    while let Some(cycle) = cycle(&waits) {
        let members = cycle.iter().chain(&cycle[..1]);
        let names: Vec<_> = members.map(|r| format!("`{}`", receivers[*r].info.name)).collect();
        let names = names.join(" after ");
        let mistake = format!("receivers are each said to run `after` another: {names}");
        if !mistakes.contains(&mistake) {
            mistakes.push(mistake);
        }
        for (index, receiver) in cycle.iter().enumerate() {
            let next = cycle[(index + 1) % cycle.len()];
            waits[*receiver].retain(|other| *other != next);
        }
    }
    for (receiver, waits) in waits.iter_mut().enumerate() {
        waits.retain(|other| order_matters(receivers[receiver], receivers[*other]));
    }
    let order = in_order(&waits);
    (order.into_iter().map(|index| receivers[index]).collect(), mistakes)
}

/// For each receiver, the indexes of the receivers that it runs `after`. A receiver of several senders has an index for each sender.
fn waits(receivers: &Linked) -> Vec<Vec<usize>> {
    let mut indexes: HashMap<TypeId, Vec<usize>> = HashMap::new();
    for (index, receiver) in receivers.iter().enumerate() {
        indexes.entry(receiver.info.receiver).or_default().push(index);
    }
    let waits = receivers.iter().map(|receiver| {
        let after: HashSet<_> = receiver.info.after.iter().collect();
        let mut waits: Vec<_> =
            after.iter().filter_map(|r| indexes.get(r)).flatten().copied().collect();
        waits.sort_unstable();
        waits
    });
    waits.collect()
}

/// Whether two receivers can run for the same event in the same phase. Only then does their order matter.
fn order_matters(one: &Registration, other: &Registration) -> bool {
    let phase = |r: &Registration| (r.info.phase, r.info.once);
    phase(one) == phase(other) && same_event(one, other)
}

/// Whether two receivers can run for the same event.
fn same_event(one: &Registration, other: &Registration) -> bool {
    let any = TypeId::of::<dyn AnyModel>();
    let senders = one.sender == other.sender || one.sender == any || other.sender == any;
    one.signal == other.signal && senders
}

/// The mistake in the `after` of a receiver that never comes after the end of the other receiver.
fn cannot_follow(receiver: &Registration, other: &Registration) -> Option<String> {
    let phases = (receiver.info.phase, other.info.phase);
    let why = match phases {
        (Phase::InTransaction, Phase::OnCommit | Phase::OnRollback) => "which runs later",
        (Phase::OnCommit, Phase::OnRollback) | (Phase::OnRollback, Phase::OnCommit) => {
            "and only one of them runs for an event"
        }
        (Phase::OnCommit, Phase::OnCommit) if other.info.detached => {
            "which runs on a task of its own that no other receiver waits for"
        }
        _ if other.info.once && !receiver.info.once => "which runs once, for the net change",
        _ => return None,
    };
    let (Registration { info: one, .. }, Registration { info: two, .. }) = (receiver, other);
    same_event(receiver, other).then(|| {
        format!(
            "receiver `{}` ({}:{}, {}) cannot run `after` `{}` ({}), {why}",
            one.name,
            one.file,
            one.line,
            one.when(),
            two.name,
            two.when()
        )
    })
}

/// The lexicographically smallest order of indexes in which each comes after all that it waits for. The members of a cycle, and what
/// waits for them, are left out.
fn in_order(waits: &[Vec<usize>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = waits.iter().map(Vec::len).collect();
    let mut followers = vec![Vec::new(); waits.len()];
    for (index, waits) in waits.iter().enumerate() {
        waits.iter().for_each(|other| followers[*other].push(index));
    }
    let free = waiting.iter().enumerate().filter(|(_, waiting)| **waiting == 0);
    let mut free: BinaryHeap<_> = free.map(|(index, _)| Reverse(index)).collect();
    let mut order = Vec::with_capacity(waits.len());
    while let Some(Reverse(index)) = free.pop() {
        order.push(index);
        for other in &followers[index] {
            waiting[*other] -= 1;
            if waiting[*other] == 0 {
                free.push(Reverse(*other));
            }
        }
    }
    order
}

/// The members of one cycle, each of which waits for the next one. The receiver with the lowest index comes first.
fn cycle(waits: &[Vec<usize>]) -> Option<Vec<usize>> {
    let ordered: HashSet<_> = in_order(waits).into_iter().collect();
    let mut at = (0..waits.len()).find(|index| !ordered.contains(index))?;
    let (mut path, mut seen) = (Vec::new(), HashSet::new());
    // A receiver that `in_order` has left out waits for another one that it has left out, so this walk ends in a cycle.
    while seen.insert(at) {
        path.push(at);
        at = waits[at].iter().copied().find(|other| !ordered.contains(other))?;
    }
    let start = path.iter().position(|index| *index == at)?;
    let mut cycle = path.split_off(start);
    let first = cycle.iter().enumerate().min_by_key(|(_, index)| **index)?.0;
    cycle.rotate_left(first);
    Some(cycle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_receiver_that_waits_moves() {
        // 0 waits for 2.
        assert_eq!(in_order(&[vec![2], vec![], vec![], vec![]]), [1, 2, 0, 3]);
        // 3 comes after 1 already.
        assert_eq!(in_order(&[vec![], vec![], vec![], vec![1]]), [0, 1, 2, 3]);
    }

    #[test]
    fn a_receiver_comes_after_all_that_it_waits_for_and_before_all_that_wait_for_it() {
        assert_eq!(in_order(&[vec![1, 3], vec![], vec![0], vec![], vec![]]), [1, 3, 0, 2, 4]);
    }

    #[test]
    fn a_cycle_is_found_through_receivers_that_only_wait_for_it() {
        assert_eq!(cycle(&[vec![2], vec![], vec![3], vec![2]]), Some(vec![2, 3]));
        assert_eq!(cycle(&[vec![], vec![1]]), Some(vec![1]));
        assert_eq!(cycle(&[vec![1], vec![]]), None);
    }

    #[test]
    fn a_long_chain_needs_no_more_stack_than_a_short_one() {
        let mut waits: Vec<_> = (0..50_000).map(|index| vec![index + 1]).collect();
        waits.push(Vec::new());
        assert_eq!(in_order(&waits)[..2], [50_000, 49_999]);
        assert_eq!(cycle(&waits), None);
    }
}
