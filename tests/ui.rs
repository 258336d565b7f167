//! The messages of the compiler for mistakes: one file, one mistake, one message.
#![allow(missing_docs)]

#[test]
fn ui() {
    trybuild::TestCases::new().compile_fail("ui/*.rs");
}
