//! The figures as tables and as a plot.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::TASKS;
use crate::measure::Measured;

/// The figures of one case with one number of tasks.
struct Figures {
    /// A second.
    writes: f64,
    /// In milliseconds.
    p50: f64,
    p99: f64,
    max: f64,
    errors: usize,
}

/// The figures of one database.
pub(crate) struct Table {
    title: &'static str,
    /// The name of each case, and its figures for each number of tasks.
    cases: Vec<(String, Vec<Figures>)>,
}

impl From<Measured> for Figures {
    fn from(Measured { mut latencies, errors, elapsed }: Measured) -> Self {
        latencies.sort_unstable();
        let at = |part: f64| {
            let last = latencies.len().saturating_sub(1);
            let index = (latencies.len() as f64 * part) as usize;
            let time = latencies.get(index.min(last)).copied().unwrap_or_default();
            time.as_secs_f64() * 1_000.0
        };
        let elapsed = elapsed.max(Duration::from_nanos(1)).as_secs_f64();
        let writes = latencies.len() as f64 / elapsed;
        Self { writes, p50: at(0.5), p99: at(0.99), max: at(1.0), errors }
    }
}

impl Table {
    pub(crate) fn new(title: &'static str, cases: impl Iterator<Item = String>) -> Self {
        Self { title, cases: cases.map(|name| (name, Vec::new())).collect() }
    }

    /// Adds the figures of all cases with the next number of tasks.
    pub(crate) fn push(&mut self, tasks: usize, measured: Vec<Measured>) {
        eprintln!("{}: {tasks} tasks", self.title);
        for ((_, all), measured) in self.cases.iter_mut().zip(measured) {
            all.push(measured.into());
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.title)?;
        writeln!(f, "| writer | tasks | writes/s | p50 ms | p99 ms | max ms | errors |")?;
        writeln!(f, "|---|--:|--:|--:|--:|--:|--:|")?;
        for (at, tasks) in TASKS.iter().enumerate() {
            for (name, figures) in &self.cases {
                let Some(Figures { writes, p50, p99, max, errors }) = figures.get(at) else {
                    continue;
                };
                writeln!(
                    f,
                    "| {name} | {tasks} | {writes:.0} | {p50:.2} | {p99:.2} | {max:.1} | {errors} |"
                )?;
            }
        }
        Ok(())
    }
}

const COLORS: [RGBColor; 9] = [
    RGBColor(140, 140, 140),
    RGBColor(20, 90, 200),
    RGBColor(60, 60, 60),
    RGBColor(0, 150, 190),
    RGBColor(200, 60, 40),
    RGBColor(220, 140, 0),
    RGBColor(120, 70, 160),
    RGBColor(0, 130, 70),
    RGBColor(200, 80, 150),
];

/// Draws throughput and p99 over tasks, one row for each database, in `target/bench/concurrent.svg`.
pub(crate) fn plot(tables: &[Table]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("concurrent.svg");
    let size = (1_180, 330 * tables.len() as u32);
    let root = SVGBackend::new(&file, size).into_drawing_area();
    root.fill(&WHITE).unwrap();
    for (area, table) in root.split_evenly((tables.len(), 1)).iter().zip(tables) {
        let (left, right) = area.split_horizontally(440);
        let throughput = |figures: &Figures| figures.writes;
        draw(&left, &format!("{}: writes a second", table.title), table, throughput, false);
        draw(&right, "p99, milliseconds", table, |figures| figures.p99, true);
    }
    root.present().unwrap();
    println!("plot: {}", file.display());
}

/// Draws one chart with logarithmic axes.
fn draw(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    caption: &str,
    table: &Table,
    figure: impl Fn(&Figures) -> f64,
    has_legend: bool,
) {
    let all = table.cases.iter().flat_map(|(_, all)| all).map(&figure).filter(|y| *y > 0.0);
    let (low, high) = all.fold((f64::MAX, 0.0_f64), |(low, high), y| (low.min(y), high.max(y)));
    if low > high {
        return;
    }
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 15))
        .margin(8)
        .margin_right(if has_legend { 310 } else { 8 })
        .x_label_area_size(28)
        .y_label_area_size(56)
        .build_cartesian_2d((1.0..600.0).log_scale(), (low / 1.3..high * 1.3).log_scale())
        .unwrap();
    chart.configure_mesh().x_desc("tasks").max_light_lines(0).draw().unwrap();
    for (at, (name, figures)) in table.cases.iter().enumerate() {
        let color = COLORS[at % COLORS.len()].stroke_width(if at < 4 { 3 } else { 2 });
        let points: Vec<_> = TASKS
            .iter()
            .zip(figures)
            .map(|(tasks, figures)| (*tasks as f64, figure(figures)))
            .filter(|(_, y)| *y > 0.0)
            .collect();
        let dots = points.iter().map(|point| Circle::new(*point, 3, color.filled()));
        chart.draw_series(dots.collect::<Vec<_>>()).unwrap();
        chart.draw_series([PathElement::new(points, color)]).unwrap();
        if has_legend {
            let y = 40 + 20 * at as i32;
            area.draw(&PathElement::new([(440, y + 6), (460, y + 6)], color)).unwrap();
            area.draw_text(name, &("sans-serif", 12).into_text_style(area), (466, y)).unwrap();
        }
    }
}
