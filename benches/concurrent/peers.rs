//! Other libraries: processes that insert rows with as many tasks or threads. `benches/peers/run` builds them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use crate::database::{Database, Kind};
use crate::measure::Measured;

/// How long a peer may take longer than it is asked to write. One with more threads than the server allows connections may never end.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) title: &'static str,
    command: Vec<PathBuf>,
}

impl Peer {
    /// The peers that are built and can write to such a database.
    pub(crate) fn built(kind: Kind) -> Vec<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let rust = |name: &str| vec![folder.join(format!("target/release/peer-{name}"))];
        let django = vec![folder.join(".work/venv/bin/python"), folder.join("django/peer.py")];
        let mut all = vec![
            ("diesel with r2d2: INSERT", rust("diesel")),
            ("SeaORM: insert", rust("sea-orm")),
            ("Django with threads: save", django),
        ];
        if kind != Kind::Postgres {
            all.insert(0, ("rusqlite behind a mutex: INSERT", rust("rusqlite")));
        }
        // It has no setting for `synchronous`.
        if kind != Kind::SqliteFull {
            all.push(("toasty: create", rust("toasty")));
        }
        let (built, missing): (Vec<_>, Vec<_>) = all
            .into_iter()
            .map(|(title, command)| Self { title, command })
            .partition(|peer| peer.command.iter().all(|part| part.exists()));
        for peer in missing {
            println!("not measured: {} ({})", peer.title, peer.command[0].display());
        }
        built
    }

    /// Runs the peer with this many writers for this long. If it does not end, that is an error.
    pub(crate) async fn measure(
        &self,
        database: &Database,
        writers: usize,
        time: Duration,
    ) -> Measured {
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .args([&database.url, "--writers", &writers.to_string()])
            .args([&time.as_millis().to_string(), database.kind.synchronous()])
            .kill_on_drop(true);
        let Ok(output) = timeout(time + PATIENCE, command.output()).await else {
            eprintln!("{}: did not end with {writers} writers", self.title);
            return Measured { errors: 1, ..Measured::default() };
        };
        let output = output.unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        let mut numbers = out.split_whitespace().map(|number| number.parse::<u64>().unwrap());
        let (Some(elapsed), Some(errors)) = (numbers.next(), numbers.next()) else {
            eprintln!("{}: {}", self.title, String::from_utf8_lossy(&output.stderr));
            return Measured { errors: 1, ..Measured::default() };
        };
        Measured {
            elapsed: Duration::from_nanos(elapsed),
            errors: errors as usize,
            latencies: numbers.map(Duration::from_nanos).collect(),
        }
    }
}
