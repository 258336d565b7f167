//! The figures as Markdown, in `target/bench/results.md`: what `docs/performance.md` shows.

use std::fmt::Write;

use serde_json::Value;

use crate::{instructions, report};

pub(crate) fn write(groups: &[Value]) {
    let mut text = String::new();
    for database in groups.chunk_by(|one, other| one["database"] == other["database"]) {
        let _ = writeln!(text, "### {}\n", name(&database[0]["database"]));
        // The operations beside each other, the rest one by one.
        let cases =
            |group: &Value| rows(group).iter().map(|row| name(&row["case"])).collect::<Vec<_>>();
        let operations = database.iter().take_while(|group| cases(group)[0] == "sqlx");
        let operations: Vec<&Value> = operations.collect();
        if let Some(first) = operations.first() {
            beside(&mut text, &operations, &cases(first));
        }
        for group in &database[operations.len()..] {
            if group["group"] == "instructions" {
                let _ = writeln!(text, "{}", instructions::table(rows(group)));
            } else {
                alone(&mut text, group);
            }
        }
    }
    let file = report::path("results.md");
    std::fs::write(&file, text).unwrap();
    println!("tables: {}", file.display());
}

fn beside(text: &mut String, groups: &[&Value], cases: &[String]) {
    let names: Vec<_> = groups.iter().map(|group| name(&group["group"])).collect();
    let _ = writeln!(text, "| µs, × time | {} |", names.join(" | "));
    let _ = writeln!(text, "|---|{}", "---|".repeat(groups.len()));
    for case in cases {
        let cells = groups.iter().map(|group| {
            let row = rows(group).iter().find(|row| name(&row["case"]) == *case);
            row.map_or_else(String::new, cell)
        });
        let _ = writeln!(text, "| {case} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    text.push('\n');
}

fn alone(text: &mut String, group: &Value) {
    let _ = writeln!(text, "| {} | µs, × time | × rate |\n|---|---|---|", name(&group["group"]));
    for row in rows(group) {
        let rate =
            row["time_of_base"].as_f64().map_or_else(String::new, |t| format!("{:.2}", 1.0 / t));
        let _ = writeln!(text, "| {} | {} | {rate} |", name(&row["case"]), cell(row));
    }
    text.push('\n');
}

fn cell(row: &Value) -> String {
    let micros = row["median_ns"].as_f64().unwrap_or_default() / 1e3;
    match row["time_of_base"].as_f64() {
        Some(ratio) => format!("{micros:.1}, × {ratio:.2}"),
        None => format!("{micros:.1}"),
    }
}

fn rows(group: &Value) -> &[Value] {
    group["rows"].as_array().map_or(&[], Vec::as_slice)
}

fn name(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
