//! The names of durable receivers, under which their deliveries are stored.

use std::collections::HashMap;

use crate::signal::entry::Registration;
use crate::table::any::AnyModel;
use crate::task::info::DurableOptions;

/// Describes each pair of durable receivers that share a name, if a delivery can be for either of them, or if they differ in an option that
/// workers look up by the name. Functions in different blocks can have the same path, for example if a macro declares them.
pub(super) fn shared(receivers: &[&'static Registration]) -> Vec<String> {
    let mut by_name: HashMap<_, Vec<&Registration>> = HashMap::new();
    let mut mistakes = Vec::new();
    // Publications and subscriptions, whose names are not paths, have the same options if they share a subject.
    let is_function = |r: &&&Registration| r.info.durable.is_some() && !r.info.name.contains(' ');
    for receiver in receivers.iter().filter(is_function) {
        let others = by_name.entry(receiver.info.stored_name()).or_default();
        for other in others.iter().filter(|other| is_ambiguous(receiver, other)) {
            let (name, one, two) = (receiver.info.stored_name(), other.info, receiver.info);
            let mistake = format!(
                "two durable receivers ({}:{} and {}:{}) have the name `{name}`, under which their deliveries are stored: give one \
                 of them a `uid`",
                one.file, one.line, two.file, two.line
            );
            if !mistakes.contains(&mistake) {
                mistakes.push(mistake);
            }
        }
        others.push(receiver);
    }
    mistakes
}

fn is_ambiguous(one: &Registration, other: &Registration) -> bool {
    let any = std::any::TypeId::of::<dyn AnyModel>();
    let same_sender = one.sender == other.sender || one.sender == any || other.sender == any;
    let same_event = one.signal == other.signal && same_sender;
    one.info.receiver != other.info.receiver && (same_event || by_name(one) != by_name(other))
}

/// The options that a worker looks up by the name alone. It looks up the others by the name and the event of a delivery.
fn by_name(receiver: &Registration) -> Option<(&'static str, u32, bool)> {
    let DurableOptions { queue, concurrency, skips_dead, .. } = *receiver.info.durable?;
    Some((queue, concurrency, skips_dead))
}
