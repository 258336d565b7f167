//! Times, counts and names as the pages show them.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime};

use maud::{Markup, html};
use sqlx_signals::durable::{DeliveryState, Status};

/// A count. Above [`Status::BOUND`], it is shown as a lower bound.
pub(crate) fn count(count: u64, is_lower_bound: bool) -> String {
    total(count.min(Status::BOUND), count > Status::BOUND || is_lower_bound)
}

/// A number with separators.
pub(crate) fn total(count: u64, is_lower_bound: bool) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if is_lower_bound && count > 0 { text + "+" } else { text }
}

/// A duration in its largest units.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A time relative to now. The exact time is in the attribute `title`.
pub(crate) fn when(time: SystemTime) -> Markup {
    let exact = exact(time);
    let text = match time.elapsed() {
        Ok(ago) => format!("{} ago", duration(ago)),
        Err(later) => format!("in {}", duration(later.duration())),
    };
    html! { time datetime=(exact) title=(exact) { (text) } }
}

/// The exact time. Times after the year 9999 have no such format, and a message of another service may have any.
fn exact(time: SystemTime) -> String {
    let mut exact = String::new();
    match write!(exact, "{}", humantime::format_rfc3339_seconds(time)) {
        Ok(()) => exact,
        Err(fmt::Error) => "after the year 9999".to_owned(),
    }
}

/// The function of a receiver with its module, and its full name below.
pub(crate) fn receiver(name: &str) -> Markup {
    let short = short(name);
    html! {
        span.name { (breakable(short)) }
        @if short != name { small.path { (breakable(name)) } }
    }
}

/// The last two parts of a path.
pub(crate) fn short(name: &str) -> &str {
    name.rmatch_indices("::").nth(1).map_or(name, |(at, _)| &name[at + 2..])
}

/// A path with possible line breaks between its parts.
fn breakable(name: &str) -> Markup {
    html! {
        @for (n, part) in name.split("::").enumerate() {
            @if n > 0 { "::" wbr; }
            (part)
        }
    }
}

/// The state of a delivery.
pub(crate) fn state(state: DeliveryState) -> Markup {
    html! { span.badge.(state.to_string()) { (state.to_string()) } }
}

/// The state with this name.
pub(crate) fn state_of(name: &str) -> Option<DeliveryState> {
    STATES.into_iter().find(|state| state.to_string() == name)
}

pub(crate) const STATES: [DeliveryState; 5] = {
    let [waiting, running, retrying, dead] = COUNTED;
    [waiting, running, retrying, dead, DeliveryState::Done]
};

/// The states that the overview counts: all but done.
pub(crate) const COUNTED: [DeliveryState; 4] =
    [DeliveryState::Waiting, DeliveryState::Running, DeliveryState::Retrying, DeliveryState::Dead];

/// The beginning of a text, on one line.
pub(crate) fn start(text: &str, length: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(length) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_has_separators_and_a_bound() {
        let counts = [0, 999, 1000, 1001, 2002].map(|n| count(n, false));
        assert_eq!(counts, ["0", "999", "1,000", "1,000+", "1,000+"]);
        assert_eq!((count(7, true), count(0, true)), ("7+".into(), "0".into()));
    }

    #[test]
    fn a_duration_has_its_two_largest_units() {
        let texts = [5, 65, 3700, 100_000].map(|seconds| duration(Duration::from_secs(seconds)));
        assert_eq!(texts, ["5 s", "1 min 5 s", "1 h 1 min", "1 d 3 h"]);
    }

    #[test]
    fn a_time_after_the_year_9999_is_shown() {
        let day = Duration::from_secs(24 * 60 * 60);
        assert_eq!(exact(SystemTime::UNIX_EPOCH + day), "1970-01-02T00:00:00Z");
        assert_eq!(exact(SystemTime::UNIX_EPOCH + 3_000_000 * day), "after the year 9999");
    }

    #[test]
    fn a_short_name_is_the_function_with_its_module() {
        assert_eq!(
            [short("shop::mail::confirm"), short("mail::confirm"), short("uid")],
            ["mail::confirm", "mail::confirm", "uid"]
        );
    }

    #[test]
    fn the_start_of_a_text_is_one_line_of_whole_characters() {
        assert_eq!(start("a\n  b", 10), "a b");
        assert_eq!(start("ééé", 2), "éé…");
    }
}
