//! What the compiler says of a mistake: one file, one mistake, one message.
#![cfg(all(feature = "sqlite", feature = "postgres"))]
#![allow(missing_docs)]

#[test]
fn ui() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
