//! The messages of the compiler for mistakes: one file, one mistake, one message.
#![cfg(all(feature = "sqlite", feature = "postgres"))]
#![allow(missing_docs)]

#[test]
fn ui() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
