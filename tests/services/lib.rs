//! Tests of this library with axum, OpenTelemetry and metrics. They are a package of their own, so that
//! `cargo run --example quickstart` does not build those crates.
