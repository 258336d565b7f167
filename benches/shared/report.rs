//! What was measured, on which machine, as JSON in `target/bench/results.json`.

use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

/// The figures of one program. Each has its own part of the file.
pub(crate) struct Report {
    program: &'static str,
    quick: bool,
    measured: Vec<String>,
    not_measured: Vec<String>,
    pub(crate) groups: Vec<Value>,
}

impl Report {
    pub(crate) fn new(program: &'static str, quick: bool) -> Self {
        println!("{program}, on {}{}\n", machine(), if quick { ", in a hurry" } else { "" });
        Self { program, quick, measured: vec![], not_measured: vec![], groups: vec![] }
    }

    pub(crate) fn measured(&mut self, what: String) {
        println!("measured: {what}\n");
        self.measured.push(what);
    }

    pub(crate) fn not_measured(&mut self, why: &str) {
        println!("NOT measured: {why}\n");
        self.not_measured.push(why.to_owned());
    }

    pub(crate) fn add(&mut self, group: Value) {
        self.groups.push(group);
    }

    /// Puts it into the file, and says what is in it.
    pub(crate) fn write(&self) {
        let mut all = read();
        let part = json!({
            "machine": machine(),
            "quick": self.quick,
            "measured": self.measured,
            "not_measured": self.not_measured,
            "groups": self.groups,
        });
        all.insert(self.program.to_owned(), part);
        let file = path("results.json");
        fs::create_dir_all(file.parent().expect("in a directory")).unwrap();
        fs::write(&file, format!("{:#}\n", Value::Object(all))).unwrap();
        for what in &self.measured {
            println!("measured: {what}");
        }
        for why in &self.not_measured {
            println!("NOT measured: {why}");
        }
        println!("figures: {}", file.display());
    }
}

/// What other programs have measured.
pub(crate) fn read() -> Map<String, Value> {
    let text = fs::read_to_string(path("results.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// A file of the results.
pub(crate) fn path(name: &str) -> PathBuf {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    target.parent().expect("in the target directory").join("bench").join(name)
}

fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, |n| n.get());
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or(std::env::consts::ARCH, |(_, model)| model);
    format!("{cpus} × {model}, {}", std::env::consts::OS)
}
