//! The graph of all receivers of the program: what they receive is on the left, what they have saved, deleted or sent is on the right.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde::Deserialize;
use sqlx_signals::registry;

use crate::link::{Base, with_query};
use crate::list::cell;
use crate::text;

/// A receiver, as `Registry::to_json` describes it.
#[derive(Debug, Deserialize)]
struct Receiver {
    signal: String,
    sender: String,
    receiver: String,
    phase: String,
    detached: bool,
    file: String,
    line: u32,
    doc: String,
    enabled: bool,
    deliveries: Option<String>,
    /// The models that it has saved in this process. Only debug builds record this and the next two fields.
    #[serde(default)]
    saves: Vec<String>,
    #[serde(default)]
    deletes: Vec<String>,
    #[serde(default)]
    sends: Vec<String>,
}

impl Receiver {
    /// The node where its arrow starts: a model, or a custom signal.
    fn source(&self) -> &str {
        if self.sender.is_empty() { &self.signal } else { &self.sender }
    }

    fn when(&self) -> String {
        let detached = if self.detached { ", detached" } else { "" };
        let paused = if self.enabled { "" } else { ", paused" };
        format!("{}{detached}{paused}", self.phase)
    }

    /// The label of its arrow.
    fn label(&self) -> String {
        let signal = if self.sender.is_empty() { "" } else { &self.signal };
        let separator = if signal.is_empty() { "" } else { ", " };
        format!("{signal}{separator}{}", self.when())
    }

    /// The CSS class of the phase.
    fn class(&self) -> String {
        self.phase.replace(' ', "-")
    }

    fn effects(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [("saves", &self.saves), ("deletes", &self.deletes), ("sends", &self.sends)];
        all.into_iter()
            .flat_map(|(verb, names)| names.iter().map(move |name| (verb, name.as_str())))
    }
}

/// The graph, and the same data as a table.
pub(crate) fn section(base: &Base) -> Markup {
    let mut all: Vec<Receiver> = serde_json::from_str(&registry().to_json()).unwrap_or_default();
    all.sort_by(|a, b| a.source().cmp(b.source()));
    html! {
        section aria-labelledby="all" {
            h2 #all { "All receivers" }
            @if all.is_empty() {
                p.empty { "This program has no receivers." }
            } @else {
                (legend(&all))
                div.scroll.picture role="region" aria-labelledby="all" tabindex="0" { (picture(base, &all)) }
                details { summary { "As a table" } (table(&all)) }
            }
        }
    }
}

fn legend(all: &[Receiver]) -> Markup {
    let mut phases: Vec<_> =
        all.iter().map(|receiver| (receiver.class(), &*receiver.phase)).collect();
    phases.sort_unstable();
    phases.dedup();
    html! {
        ul.legend aria-label="Meaning of the arrows" {
            @for (class, phase) in phases { li.(class) { (phase) } }
            @if all.iter().any(|receiver| receiver.effects().next().is_some()) {
                li.effect { "what it has done since the program has started" }
            }
        }
    }
}

const ROW: usize = 60;
const BOX: usize = 38;
const MARGIN: usize = 4;

/// The horizontal extent of a column.
#[derive(Clone, Copy)]
struct Column {
    x: usize,
    width: usize,
}

impl Column {
    /// A column that is wide enough for these texts.
    fn of<'t>(x: usize, texts: impl Iterator<Item = &'t str>) -> Self {
        Self { x, width: width(texts) + 28 }
    }

    fn end(self) -> usize {
        self.x + self.width
    }
}

/// The width of the longest text. The server does not know the font, so it assumes a wide one.
fn width<'t>(texts: impl Iterator<Item = &'t str>) -> usize {
    texts.map(|text| text.chars().count()).max().unwrap_or_default() * 8
}

fn picture(base: &Base, all: &[Receiver]) -> Markup {
    let sources = centers(all.iter().map(Receiver::source).enumerate());
    let effects: Vec<_> = all
        .iter()
        .enumerate()
        .flat_map(|(n, r)| r.effects().map(move |effect| (n, effect)))
        .collect();
    let targets = spread(centers(effects.iter().map(|(n, (_, what))| (*n, *what))));
    let labels: Vec<_> = all.iter().map(Receiver::label).collect();
    let left = Column::of(MARGIN, sources.iter().map(|(name, _)| *name));
    // The labels are smaller than the names.
    let arrows = width(labels.iter().map(String::as_str)) * 7 / 8 + 80;
    let middle = Column::of(left.end() + arrows, all.iter().map(|r| text::short(&r.receiver)));
    let right = Column::of(middle.end() + 150, targets.iter().map(|(name, _)| *name));
    let end = if targets.is_empty() { middle.end() } else { right.end() };
    let bottom = targets.last().map_or(0, |(_, y)| y + BOX);
    let (width, height) = (end + MARGIN, (ROW * all.len() + 8).max(bottom));
    let center =
        |nodes: &BTreeMap<&str, usize>, name: &str| nodes.get(name).copied().unwrap_or_default();
    let (from, to): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (sources.iter().copied().collect(), targets.iter().copied().collect());
    html! {
        svg width=(width) height=(height) viewBox={ "0 0 " (width) " " (height) } role="group" aria-label="Which receivers run for which model" {
            @for (n, (receiver, label)) in all.iter().zip(&labels).enumerate() {
                g.edge.(receiver.class()) {
                    path d=(curve(left.end(), center(&from, receiver.source()), middle.x, row(n))) {}
                    path.tip d=(tip(middle.x, row(n))) {}
                    text x=(middle.x - 14) y=(row(n) - 7) text-anchor="end" { (label) }
                }
            }
            @for (n, (verb, what)) in &effects {
                g.edge.effect {
                    path d=(late_curve(middle.end(), row(*n), right.x, center(&to, what))) {}
                    path.tip d=(tip(right.x, center(&to, what))) {}
                    text x=(middle.end() + 8) y=(row(*n) - 7) { (verb) }
                }
            }
            @for (name, y) in &sources { (node("source", left, *y, name, name)) }
            @for (n, receiver) in all.iter().enumerate() { (receiver_node(base, middle, row(n), receiver)) }
            @for (name, y) in &targets { (node("source", right, *y, name, name)) }
        }
    }
}

/// The box of a receiver, with a link to its deliveries.
fn receiver_node(base: &Base, column: Column, y: usize, receiver: &Receiver) -> Markup {
    let title = [&*receiver.receiver, &*receiver.doc].join("\n");
    let class = if receiver.enabled { "receiver" } else { "receiver paused" };
    let node = node(class, column, y, text::short(&receiver.receiver), title.trim_end());
    html! {
        @if let Some(name) = &receiver.deliveries {
            a href=(with_query(&base.path("/deliveries"), &[("receiver", name)])) { (node) }
        } @else { (node) }
    }
}

/// The vertical center of a row.
fn row(n: usize) -> usize {
    ROW * n + ROW / 2 + 4
}

/// Each name once, with the vertical center of the rows in which it occurs.
fn centers<'n>(rows: impl Iterator<Item = (usize, &'n str)>) -> Vec<(&'n str, usize)> {
    let mut all: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (n, name) in rows {
        all.entry(name).or_default().push(row(n));
    }
    let center = |(name, rows): (_, Vec<usize>)| (name, rows.iter().sum::<usize>() / rows.len());
    all.into_iter().map(center).collect()
}

/// Moves nodes that would overlap further down.
fn spread(mut nodes: Vec<(&str, usize)>) -> Vec<(&str, usize)> {
    nodes.sort_by_key(|(_, y)| *y);
    let mut free = 0;
    for (_, y) in &mut nodes {
        *y = free.max(*y);
        free = *y + BOX + 10;
    }
    nodes
}

/// A curve that ends as a straight line, below its label.
fn curve(x1: usize, y1: usize, x2: usize, y2: usize) -> String {
    let (bend, end) = (x1 + 30, x1 + 60);
    format!("M {x1} {y1} C {bend} {y1}, {bend} {y2}, {end} {y2} L {} {y2}", x2 - 8)
}

/// A curve that begins as a straight line, below its label.
fn late_curve(x1: usize, y1: usize, x2: usize, y2: usize) -> String {
    let (start, bend, end) = (x1 + 66, x1 + 96, x2 - 24);
    format!("M {x1} {y1} L {start} {y1} C {bend} {y1}, {bend} {y2}, {end} {y2} L {} {y2}", x2 - 8)
}

/// The tip of an arrow that ends at this point.
fn tip(x: usize, y: usize) -> String {
    format!("M {x} {y} l -10 -5 v 10 z")
}

fn node(class: &str, column: Column, y: usize, text: &str, title: &str) -> Markup {
    html! {
        g.node.(class) {
            title { (title) }
            rect x=(column.x) y=(y - BOX / 2) width=(column.width) height=(BOX) rx="8" {}
            text x=(column.x + column.width / 2) y=(y + 5) text-anchor="middle" { (text) }
        }
    }
}

fn table(all: &[Receiver]) -> Markup {
    html! {
        div.scroll {
            table.cards role="table" {
                caption.hidden { "All receivers of the program" }
                thead role="rowgroup" { tr role="row" {
                    @for head in ["Receiver", "Signal", "Model", "Runs", "Has saved, deleted or sent", "Place"] {
                        th role="columnheader" scope="col" { (head) }
                    }
                } }
                tbody role="rowgroup" {
                    @for r in all {
                        tr role="row" {
                            th role="rowheader" scope="row" data-label="Receiver" {
                                (text::receiver(&r.receiver))
                                @if !r.doc.is_empty() { small { (r.doc) } }
                            }
                            (cell("Signal", html! { (r.signal) }))
                            (cell("Model", html! { (r.sender) }))
                            (cell("Runs", html! { (r.when()) }))
                            (cell("Has", html! { @for (verb, what) in r.effects() { div { (verb) " " (what) } } }))
                            (cell("Place", html! { small { (r.file) ":" (r.line) } }))
                        }
                    }
                }
            }
        }
    }
}
