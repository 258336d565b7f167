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

/// The times of one kind of operation: each by the clock, and all together by the processor.
pub struct Times {
    each: Vec<u128>,
    processor: u128,
}

impl Times {
    pub fn new(operations: usize) -> Self {
        Self { each: Vec::with_capacity(operations), processor: 0 }
    }

    pub fn begin(&mut self) {
        self.processor = processor();
    }

    pub fn add(&mut self, start: Instant) {
        self.each.push(start.elapsed().as_nanos());
    }

    /// The median, for what else runs on the machine makes some operations a hundred times longer; and what the threads of
    /// this process have used for one.
    pub fn print(mut self, operation: &str, hook: bool) {
        let cpu = (processor() - self.processor) / self.each.len() as u128;
        self.each.sort_unstable();
        let ns = self.each[self.each.len() / 2];
        println!(r#"{{"op":"{operation}","hook":{hook},"ns":{ns},"cpu":{cpu}}}"#);
    }
}

/// Nanoseconds that all threads of this process have used.
fn processor() -> u128 {
    #[repr(C)]
    struct Timespec {
        seconds: i64,
        nanoseconds: i64,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the function writes one `timespec`, which on 64-bit Linux is two 64-bit integers.
    assert_eq!(unsafe { clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    time.seconds as u128 * 1_000_000_000 + time.nanoseconds as u128
}

/// `measure!(args, "insert", hook, |i| { … })`: runs the body for each `i`, and prints the time that one takes.
#[macro_export]
macro_rules! measure {
    ($args:expr, $operation:expr, $hook:expr, |$i:ident| $body:block) => {{
        let warm_up = $args.warm_up();
        let mut times = $crate::common::Times::new($args.operations);
        for $i in 0..warm_up + $args.operations {
            if $i == warm_up {
                times.begin();
            }
            let start = ::std::time::Instant::now();
            let _ = $body;
            if $i >= warm_up {
                times.add(start);
            }
        }
        times.print($operation, $hook);
    }};
}
