//! Runs the program, which kills its services and compares their databases.
#![allow(missing_docs)]

use std::process::Command;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_two-services"))
}

#[test]
fn every_paid_order_is_shipped_once_although_both_services_are_killed() {
    let shown = program().output().unwrap();
    let text = String::from_utf8_lossy(&shown.stdout);
    let errors = String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "{text}{errors}");
    assert!(text.contains("every paid order was shipped exactly once"), "{text}");
}

#[test]
fn without_a_server_the_message_says_how_to_get_one() {
    for missing in ["NATS_URL", "DATABASE_URL"] {
        let set = if missing == "NATS_URL" { "DATABASE_URL" } else { "NATS_URL" };
        let shown = program().env_remove(missing).output().unwrap();
        let errors = String::from_utf8_lossy(&shown.stderr);
        assert_eq!(shown.status.code(), Some(1), "with {set} only: {errors}");
        let command = "scripts/with-nats scripts/with-postgres cargo run -p two-services";
        assert!(errors.contains(missing) && errors.contains(command), "{errors}");
    }
}
