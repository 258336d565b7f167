//! Instructions, as valgrind counts them.

use std::process::Command;

/// How many instructions this program needs to do once more what it does with these arguments; behind them it is told how
/// often. None where valgrind is not installed, or cannot run the program.
pub(crate) fn instructions(args: &[&str]) -> Option<u64> {
    let (few, many) = (counted(args, 200)?, counted(args, 1200)?);
    Some(many.saturating_sub(few) / 1000)
}

fn counted(args: &[&str], times: u32) -> Option<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(std::env::current_exe().unwrap()).args(args).arg(times.to_string());
    let log = String::from_utf8_lossy(&valgrind.output().ok()?.stderr).into_owned();
    log.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}
