//! What the dispatch to a model without receivers costs, in a program that has no receivers at all.
#![allow(missing_docs)]

#[path = "../shared/interleaved.rs"]
mod interleaved;
mod measure;
#[path = "../shared/report.rs"]
mod report;
#[path = "../shared/valgrind.rs"]
mod valgrind;

fn main() {
    measure::main("dispatch", 0);
}
