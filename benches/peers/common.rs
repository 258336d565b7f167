//! What every peer has in common: its arguments, the rows, the clock and the line it prints.
#![allow(dead_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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

/// `peer URL --writers NUMBER MILLISECONDS SYNCHRONOUS`: concurrent inserts, for `benches/concurrent`.
pub struct Writers {
    pub url: String,
    pub number: usize,
    pub time: Duration,
    /// Of SQLite: `FULL` or `NORMAL`.
    pub synchronous: String,
    pub stop: AtomicBool,
}

impl Writers {
    pub fn read() -> Option<Self> {
        let args: Vec<_> = std::env::args().skip(1).collect();
        let [url, "--writers", number, milliseconds, synchronous] =
            &*args.iter().map(String::as_str).collect::<Vec<_>>()
        else {
            return None;
        };
        Some(Self {
            url: (*url).to_owned(),
            number: number.parse().unwrap(),
            time: Duration::from_millis(milliseconds.parse().unwrap()),
            synchronous: (*synchronous).to_owned(),
            stop: AtomicBool::new(false),
        })
    }

    pub fn is_postgres(&self) -> bool {
        self.url.starts_with("postgres")
    }

    pub fn path(&self) -> &str {
        self.url.trim_start_matches("sqlite:")
    }

    pub fn pragmas(&self) -> String {
        format!("PRAGMA busy_timeout = 5000; PRAGMA synchronous = {}", self.synchronous)
    }

    /// Inserts until the time is over, one thread for each writer. `insert` returns whether it succeeded.
    pub fn on_threads(&self, insert: impl Fn(usize) -> bool + Sync) {
        let start = Instant::now();
        let all = std::thread::scope(|scope| {
            let one = |writer: usize| {
                let insert = &insert;
                move || {
                    let mut all = Vec::new();
                    while !self.stop.load(Ordering::Relaxed) {
                        let start = Instant::now();
                        let is_stored = insert(writer);
                        all.push((start.elapsed(), is_stored));
                    }
                    all
                }
            };
            let threads: Vec<_> = (0..self.number).map(|i| scope.spawn(one(i))).collect();
            std::thread::sleep(self.time);
            self.stop.store(true, Ordering::Relaxed);
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        print_writes(start.elapsed(), all);
    }
}

/// Prints the elapsed time, the number of errors, and the time of each write, in nanoseconds.
pub fn print_writes(elapsed: Duration, all: Vec<(Duration, bool)>) {
    let errors = all.iter().filter(|(_, is_stored)| !is_stored).count();
    let times = all.iter().filter(|(_, is_stored)| *is_stored);
    let times: Vec<_> = times.map(|(time, _)| time.as_nanos().to_string()).collect();
    println!("{} {errors}\n{}", elapsed.as_nanos(), times.join(" "));
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

/// `on_tasks!(writers, || async { … })`: as [`Writers::on_threads`](common::Writers::on_threads), with a task of tokio for each writer.
#[macro_export]
macro_rules! on_tasks {
    ($writers:expr, $insert:expr) => {{
        let (writers, insert) = (::std::sync::Arc::new($writers), $insert);
        let start = ::std::time::Instant::now();
        let tasks: Vec<_> = (0..writers.number)
            .map(|_| {
                let (writers, insert) = (::std::sync::Arc::clone(&writers), insert.clone());
                ::tokio::spawn(async move {
                    let mut all = Vec::new();
                    while !writers.stop.load(::std::sync::atomic::Ordering::Relaxed) {
                        let start = ::std::time::Instant::now();
                        let is_stored = insert().await;
                        all.push((start.elapsed(), is_stored));
                    }
                    all
                })
            })
            .collect();
        ::tokio::time::sleep(writers.time).await;
        writers.stop.store(true, ::std::sync::atomic::Ordering::Relaxed);
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap());
        }
        $crate::common::print_writes(start.elapsed(), all);
    }};
}
