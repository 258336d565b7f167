//! Builds the program again when a migration is added, as `sqlx migrate build-script` does.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
