//! The receivers of the shop, as a picture and as a table.

use axum::response::Html;
use maud::{Markup, html};
use sqlx_signals::prelude::*;

use super::WebError;
use super::layout::page;

/// A receiver, as `Registry::to_json` describes it.
#[derive(serde::Deserialize)]
struct Receiver {
    signal: String,
    sender: String,
    receiver: String,
    phase: String,
    detached: bool,
    file: String,
    line: u32,
    doc: String,
    /// The models that it has saved so far. Only debug builds record this.
    #[serde(default)]
    saves: Vec<String>,
}

impl Receiver {
    /// The path of the function without the crate and the folder.
    fn name(&self) -> &str {
        self.receiver.trim_start_matches("shop::receivers::")
    }

    fn when(&self) -> String {
        if self.detached { format!("{}, detached", self.phase) } else { self.phase.clone() }
    }

    /// The CSS class of the phase.
    fn class(&self) -> String {
        self.phase.replace(' ', "-")
    }
}

/// The graph, and a table with the details of each receiver.
async fn page_of(db: &Db, receivers: &[Receiver]) -> Result<Html<String>, WebError> {
    let content = html! {
        p { "Each arrow is a function that runs when a row of the model on its left is saved. "
            "A dashed arrow shows what the function has saved in turn since the server has started." }
        div.picture tabindex="0" { (picture(receivers)) }
        table {
            thead { tr { th { "Signal" } th { "Model" } th { "Receiver" } th { "Runs" } th { "Place" } } }
            tbody {
                @for r in receivers {
                    tr {
                        td data-label="Signal" { (r.signal) }
                        td data-label="Model" { (r.sender) }
                        td data-label="Receiver" { strong { (r.name()) } br; small { (r.doc) } }
                        td data-label="Runs" { span.phase.(r.class()) { (r.when()) } }
                        td data-label="Place" { small { (r.file) ":" (r.line) } }
                    }
                }
            }
        }
    };
    page(db, "Signals", content).await
}

/// The page `/signals`.
pub(super) async fn show(db: Db) -> Result<Html<String>, WebError> {
    let receivers: Vec<Receiver> =
        serde_json::from_str(&registry().to_json()).map_err(sqlx_signals::Error::other)?;
    page_of(&db, &receivers).await
}

const WIDTH: usize = 1000;
const ROW: usize = 58;
const BOX: usize = 38;

/// The horizontal extents of the three columns: models, receivers, and models that receivers save.
const MODELS: (usize, usize) = (8, 120);
const RECEIVERS: (usize, usize) = (400, 280);
const SAVED: (usize, usize) = (840, 150);

/// Models on the left, their receivers in the middle, and what these have saved on the right.
fn picture(receivers: &[Receiver]) -> Markup {
    let mut sorted: Vec<_> = receivers.iter().collect();
    sorted.sort_by(|a, b| a.sender.cmp(&b.sender));
    let models = centers(sorted.iter().map(|r| &*r.sender).enumerate());
    let saves = sorted.iter().enumerate().flat_map(|(n, r)| r.saves.iter().map(move |s| (n, &**s)));
    let saved = spread(centers(saves.clone()));
    let center = |models: &[(&str, usize)], model: &str| {
        models.iter().find(|(name, _)| *name == model).map_or(0, |(_, y)| *y)
    };
    let height = ROW * sorted.len() + 20;
    html! {
        svg role="img" aria-label="Which receivers run for which model" viewBox={ "0 0 " (WIDTH) " " (height) } {
            @for (n, r) in sorted.iter().enumerate() {
                @let (from, to) = (center(&models, &r.sender), row(n));
                path.edge.(r.class()) d=(curve(MODELS.0 + MODELS.1, from, RECEIVERS.0, to)) {}
                path.tip.(r.class()) d=(tip(RECEIVERS.0, to)) {}
                text.label x=(RECEIVERS.0 - 10) y=(to - 6) text-anchor="end" { (r.signal) ", " (r.when()) }
            }
            @for (n, model) in saves {
                path.edge.saves d=(curve(RECEIVERS.0 + RECEIVERS.1, row(n), SAVED.0, center(&saved, model))) {}
                path.tip.saves d=(tip(SAVED.0, center(&saved, model))) {}
            }
            @for (model, y) in &models { (node("model", MODELS, *y, model)) }
            @for (n, r) in sorted.iter().enumerate() { (node("receiver", RECEIVERS, row(n), r.name())) }
            @for (model, y) in &saved { (node("model", SAVED, *y, model)) }
        }
    }
}

/// The vertical center of a row.
fn row(n: usize) -> usize {
    ROW * n + ROW / 2 + 10
}

/// Each name once, with the vertical center of the rows in which it occurs.
fn centers<'n>(rows: impl Iterator<Item = (usize, &'n str)>) -> Vec<(&'n str, usize)> {
    let mut all: Vec<(&str, Vec<usize>)> = Vec::new();
    for (n, name) in rows {
        match all.iter_mut().find(|(other, _)| *other == name) {
            Some((_, rows)) => rows.push(row(n)),
            None => all.push((name, vec![row(n)])),
        }
    }
    all.into_iter().map(|(name, rows)| (name, rows.iter().sum::<usize>() / rows.len())).collect()
}

/// Moves nodes that would overlap further down.
fn spread(mut nodes: Vec<(&str, usize)>) -> Vec<(&str, usize)> {
    nodes.sort_by_key(|(_, y)| *y);
    let mut free = 0;
    for (_, y) in &mut nodes {
        *y = free.max(*y);
        free = *y + BOX + 8;
    }
    nodes
}

fn curve(x1: usize, y1: usize, x2: usize, y2: usize) -> String {
    // The curve ends early, so that the label is above a straight line.
    let (bend, end) = (x1 + (x2 - x1) / 6, x1 + (x2 - x1) / 3);
    format!("M {x1} {y1} C {bend} {y1}, {bend} {y2}, {end} {y2} L {x2} {y2}")
}

/// The tip of an arrow that ends here.
fn tip(x: usize, y: usize) -> String {
    format!("M {x} {y} l -10 -5 v 10 z")
}

fn node(class: &str, (x, width): (usize, usize), y: usize, text: &str) -> Markup {
    html! {
        rect.(class) x=(x) y=(y - BOX / 2) width=(width) height=(BOX) rx="8" {}
        text.(class) x=(x + width / 2) y=(y + 5) text-anchor="middle" { (text) }
    }
}
