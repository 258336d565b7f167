//! What the dispatch to a model without receivers costs, in a program with ten thousand receivers of other models.
#![allow(missing_docs)]

mod crowd;
#[path = "../shared/interleaved.rs"]
mod interleaved;
#[path = "../dispatch/measure.rs"]
mod measure;
#[path = "../shared/report.rs"]
mod report;
#[path = "../shared/valgrind.rs"]
mod valgrind;

fn main() {
    measure::main("dispatch_in_a_crowd", 10_000);
}
