//! Several ways to do one thing, measured in turn.

use std::fmt;
use std::pin::Pin;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// So many samples of each case, each the mean of so many runs.
#[derive(Clone, Copy)]
pub(crate) struct Rounds(pub(crate) usize, pub(crate) u32);

/// One of the ways. It measures itself, so that it can prepare what is not to be measured.
pub(crate) struct Case<C> {
    pub(crate) name: &'static str,
    base: Option<&'static str>,
    run: Box<dyn Run<C>>,
}

impl<C> Case<C> {
    /// What the others are compared with.
    pub(crate) fn base(
        name: &'static str,
        run: impl AsyncFn(&mut C) -> Duration + 'static,
    ) -> Self {
        Self { name, base: None, run: Box::new(run) }
    }

    /// What is compared with the case `base`.
    pub(crate) fn new(
        name: &'static str,
        base: &'static str,
        run: impl AsyncFn(&mut C) -> Duration + 'static,
    ) -> Self {
        Self { name, base: Some(base), run: Box::new(run) }
    }

    /// Does it once.
    pub(crate) async fn run(&self, context: &mut C) -> Duration {
        self.run.run(context).await
    }
}

trait Run<C> {
    fn run<'r>(&'r self, context: &'r mut C) -> Pin<Box<dyn Future<Output = Duration> + 'r>>;
}

impl<C, F: AsyncFn(&mut C) -> Duration> Run<C> for F {
    fn run<'r>(&'r self, context: &'r mut C) -> Pin<Box<dyn Future<Output = Duration> + 'r>> {
        Box::pin(self(context))
    }
}

/// How long a future takes.
pub(crate) async fn timed<T>(future: impl Future<Output = T>) -> Duration {
    let begun = Instant::now();
    std::hint::black_box(future.await);
    begun.elapsed()
}

/// The cases of one thing on one database, measured.
pub(crate) struct Group {
    database: String,
    name: String,
    rows: Vec<Row>,
}

struct Row {
    name: &'static str,
    base: Option<&'static str>,
    /// Sorted.
    samples: Vec<Duration>,
}

impl Group {
    /// Runs every case once in each round, so that what else the machine does falls on all alike; in an order of the
    /// round's own, because it matters who comes after whom.
    pub(crate) async fn measure<C>(
        database: &str,
        name: impl Into<String>,
        Rounds(rounds, runs): Rounds,
        cases: Vec<Case<C>>,
        context: &mut C,
    ) -> Self {
        let row = |case: &Case<C>| Row { name: case.name, base: case.base, samples: Vec::new() };
        let mut rows: Vec<Row> = cases.iter().map(row).collect();
        let warm_up = 1 + rounds / 20;
        let mut order: Vec<usize> = (0..cases.len()).collect();
        let mut random = fastrand::Rng::with_seed(0);
        for round in 0..warm_up + rounds {
            random.shuffle(&mut order);
            for &case in &order {
                // Some in a row: how soon SQLite's thread wakes up says more of what ran before than of the case.
                let mut took = Duration::ZERO;
                for _ in 0..runs {
                    took += cases[case].run(context).await;
                }
                if round >= warm_up {
                    rows[case].samples.push(took / runs);
                }
            }
        }
        rows.iter_mut().for_each(|row| row.samples.sort_unstable());
        Self { database: database.to_owned(), name: name.into(), rows }
    }

    /// The time of a row, as a multiple of that of its base.
    fn ratio(&self, row: &Row) -> Option<f64> {
        let base = self.rows.iter().find(|other| Some(other.name) == row.base)?;
        Some(row.quantile(0.5).as_secs_f64() / base.quantile(0.5).as_secs_f64())
    }

    pub(crate) fn into_json(self) -> Value {
        let nanos = |row: &Row, at| row.quantile(at).as_nanos() as u64;
        let rows = self.rows.iter().map(|row| {
            json!({
                "case": row.name,
                "base": row.base,
                "median_ns": nanos(row, 0.5),
                "quartiles_ns": [nanos(row, 0.25), nanos(row, 0.75)],
                "rounds": row.samples.len(),
                "time_of_base": self.ratio(row),
            })
        });
        json!({ "database": self.database, "group": self.name, "rows": rows.collect::<Vec<_>>() })
    }
}

impl Row {
    fn quantile(&self, at: f64) -> Duration {
        self.samples[((self.samples.len() - 1) as f64 * at).round() as usize]
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("{}: {}", self.database, self.name);
        writeln!(f, "{title:<46} {:>10}  {:>6}  {:>6}", "median µs", "× time", "× rate")?;
        for row in &self.rows {
            let (indent, width) = if row.base.is_some() { ("  ", 44) } else { ("", 46) };
            let micros = row.quantile(0.5).as_secs_f64() * 1e6;
            write!(f, "{indent}{:<width$} {micros:>10.1}", row.name)?;
            match self.ratio(row) {
                Some(ratio) => writeln!(f, "  {ratio:>6.2}  {:>6.2}", 1.0 / ratio)?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
