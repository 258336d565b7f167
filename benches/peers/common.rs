//! What every peer has in common: its arguments, the rows, the clock and the line it prints.
#![allow(dead_code)]

use std::time::Instant;

/// `peer URL OPERATIONS`: `sqlite:/path/to/file` or `postgres://…`, with the table already there.
pub struct Args {
    pub url: String,
    pub operations: usize,
}

impl Args {
    pub fn read() -> Self {
        let mut args = std::env::args().skip(1);
        let url = args.next().expect("the first argument is the URL");
        let operations = args.next().and_then(|n| n.parse().ok()).expect("the second is a number");
        Self { url, operations }
    }

    pub fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres")
    }

    /// The file of a `sqlite:` URL.
    pub fn path(&self) -> &str {
        self.url.trim_start_matches("sqlite:")
    }

    /// Operations before the clock starts: statements prepared, caches warm.
    pub fn warm_up(&self) -> usize {
        self.operations / 5
    }
}

pub fn name(i: usize) -> String {
    format!("Ann {i}")
}

pub fn email(i: usize) -> String {
    format!("ann{i}@example.org")
}

pub fn report(operation: &str, hook: bool, operations: usize, start: Instant) {
    let ns = start.elapsed().as_nanos() as f64 / operations as f64;
    println!(r#"{{"op":"{operation}","hook":{hook},"ns":{ns:.0}}}"#);
}

/// `measure!(args, "insert", hook, |i| …)`: runs the body for each `i`, and prints the time that one takes.
#[macro_export]
macro_rules! measure {
    ($args:expr, $operation:expr, $hook:expr, |$i:ident| $body:block) => {{
        let warm_up = $args.warm_up();
        let mut start = ::std::time::Instant::now();
        for $i in 0..warm_up + $args.operations {
            if $i == warm_up {
                start = ::std::time::Instant::now();
            }
            let _ = $body;
        }
        $crate::common::report($operation, $hook, $args.operations, start);
    }};
}
