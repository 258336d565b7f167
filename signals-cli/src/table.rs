//! Deliveries as a table.

use sqlx_signals::durable::StoredDelivery;

const HEAD: [&str; 7] = ["id", "state", "receiver", "event", "attempt", "stored", "error"];
/// The number of characters of a text that are shown.
const ERROR: usize = 80;

pub(crate) fn of(deliveries: &[StoredDelivery]) -> String {
    let rows: Vec<_> =
        std::iter::once(HEAD.map(str::to_owned)).chain(deliveries.iter().map(cells)).collect();
    let widths: [usize; HEAD.len()] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    let line = |row: &[String; HEAD.len()]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn cells(delivery: &StoredDelivery) -> [String; HEAD.len()] {
    let event = [&delivery.signal, &delivery.sender, delivery.key.as_deref().unwrap_or_default()];
    let event: Vec<&str> = event.into_iter().filter(|part| !part.is_empty()).collect();
    [
        delivery.id.to_string(),
        delivery.state().to_string(),
        delivery.receiver.clone(),
        printable(&event.join(" ")),
        delivery.attempt.to_string(),
        humantime::format_rfc3339_seconds(delivery.stored_at).to_string(),
        delivery.error.as_deref().map(cause).map(printable).unwrap_or_default(),
    ]
}

/// The cause of a failure, without the name and the source location of the receiver.
fn cause(error: &str) -> &str {
    error.split_once(") failed: ").map_or(error, |(_, cause)| cause)
}

/// The beginning of a text on one line, without characters that control a terminal.
fn printable(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let safe: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    match safe.char_indices().nth(ERROR) {
        Some((end, _)) => format!("{}…", &safe[..end]),
        None => safe,
    }
}
