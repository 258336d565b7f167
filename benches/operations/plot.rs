//! The figures as bars, in `target/bench/results.svg`: the time of each case as a multiple of the same by hand.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

use crate::report;

/// Where a bar that is longer ends.
const LONGEST: f64 = 3.0;
const PANEL: u32 = 460;
const LABEL: u32 = 230;
const LINE: u32 = 15;

/// A bar, or the title of those that follow.
enum Line {
    Title(String),
    Bar(String, f64),
}

pub(crate) fn write(groups: &[Value]) {
    let panels = panels(groups);
    let Some(height) = panels.iter().map(|(_, lines)| lines.len()).max() else { return };
    let size = (PANEL * panels.len() as u32, LINE * (height as u32 + 6));
    let file = report::path("results.svg");
    let root = SVGBackend::new(&file, size).into_drawing_area();
    root.fill(&WHITE).unwrap();
    for (area, panel) in root.split_evenly((1, panels.len())).iter().zip(&panels) {
        draw(area, panel, height);
    }
    root.present().unwrap();
    println!("plot: {}", file.display());
}

/// The lines of each database.
fn panels(groups: &[Value]) -> Vec<(String, Vec<Line>)> {
    let mut panels: Vec<(String, Vec<Line>)> = Vec::new();
    for group in groups {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let database = text(&group["database"]);
        if panels.last().is_none_or(|(name, _)| *name != database) {
            panels.push((database, Vec::new()));
        }
        let (_, lines) = panels.last_mut().expect("it was pushed");
        let rows = group["rows"].as_array().into_iter().flatten();
        let bar = |row: &Value| Some(Line::Bar(text(&row["case"]), row["time_of_base"].as_f64()?));
        let bars: Vec<Line> = rows.filter_map(bar).collect();
        if !bars.is_empty() {
            lines.push(Line::Title(text(&group["group"])));
            lines.extend(bars);
        }
    }
    panels
}

fn draw<DB: DrawingBackend>(
    area: &DrawingArea<DB, plotters::coord::Shift>,
    (database, lines): &(String, Vec<Line>),
    height: usize,
) where
    DB::ErrorType: 'static,
{
    let caption = format!("{database}: time, by hand = 1");
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 15))
        .margin_right(20)
        .x_label_area_size(24)
        .y_label_area_size(LABEL)
        .build_cartesian_2d(0.0..LONGEST, height as f64..0.0)
        .unwrap();
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .max_light_lines(0)
        .x_labels(7)
        .draw()
        .unwrap();
    for (line, what) in lines.iter().enumerate() {
        let (top, bottom) = (line as f64 + 0.15, line as f64 + 0.85);
        let (name, ratio, bold) = match what {
            Line::Title(name) => (name, None, FontStyle::Bold),
            Line::Bar(name, ratio) => (name, Some(*ratio), FontStyle::Normal),
        };
        if let Some(ratio) = ratio {
            let bar = [(0.0, top), (ratio.min(LONGEST), bottom)];
            chart.draw_series([Rectangle::new(bar, BLUE.mix(0.45).filled())]).unwrap();
        }
        let font = ("sans-serif", 12, bold).into_font();
        let (x, y) = chart.backend_coord(&(0.0, line as f64 + 0.5));
        let label = TextStyle::from(font.clone()).pos(Pos::new(HPos::Right, VPos::Center));
        let origin = area.get_base_pixel();
        let at = (x - origin.0 - 6, y - origin.1);
        area.draw_text(name, &label, at).unwrap();
        if let Some(ratio) = ratio {
            let value = TextStyle::from(font).pos(Pos::new(HPos::Left, VPos::Center));
            let (x, _) = chart.backend_coord(&(ratio.min(LONGEST - 0.3), line as f64 + 0.5));
            area.draw_text(&format!("{ratio:.2}"), &value, (x - origin.0 + 4, at.1)).unwrap();
        }
    }
    let one = [(1.0, 0.0), (1.0, lines.len() as f64)];
    chart.draw_series([PathElement::new(one, BLACK.stroke_width(1))]).unwrap();
}
