//! Instructions, as valgrind counts them.

use std::process::Command;

/// The instructions that this program needs to do once more what it does with these arguments. They are followed by the number of times:
/// it runs `few` and `many` times. `None` if valgrind is not installed, or cannot run the program.
pub(crate) fn instructions(args: &[&str], [few, many]: [u32; 2]) -> Option<u64> {
    let more = counted(args, many)?.saturating_sub(counted(args, few)?);
    Some(more / u64::from(many - few))
}

fn counted(args: &[&str], times: u32) -> Option<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(std::env::current_exe().unwrap()).args(args).arg(times.to_string());
    let log = String::from_utf8_lossy(&valgrind.output().ok()?.stderr).into_owned();
    log.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}
