//! A PostgreSQL server of one test, which the test can restart. Other than the server of `scripts/with-postgres`, it waits for the disk at every
//! commit, so that a committed transaction survives the restart.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A server with its data in a directory of its own. It listens on a Unix socket in this directory.
pub(crate) struct Cluster {
    dir: PathBuf,
    bin: PathBuf,
}

impl Cluster {
    pub(crate) fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("sqlx-signals-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(&dir).status().unwrap().success());
        }
        let cluster = Self { bin: programs(), dir };
        let options =
            ["--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C"];
        cluster.run("initdb", &options);
        cluster.pg_ctl("start", &["--options", &cluster.settings()]);
        cluster
    }

    fn settings(&self) -> String {
        let dir = self.dir.display();
        format!(
            "-k {dir} -c listen_addresses='' -c fsync=on -c synchronous_commit=on -c max_connections=50"
        )
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.dir.display())
    }

    /// Restarts the server. With the mode `immediate`, it is killed and recovers what was committed; with `fast`, it ends all connections.
    pub(crate) fn restart(&self, mode: &str) {
        self.pg_ctl("restart", &["--mode", mode, "--options", &self.settings()]);
    }

    fn pg_ctl(&self, action: &str, options: &[&str]) {
        let log = self.dir.join("log").display().to_string();
        let mut all = vec!["--wait", "--timeout", "120", "--log", &log, action];
        all.extend(options);
        self.run("pg_ctl", &all);
    }

    /// Runs a program of the server, which refuses to run as root.
    fn run(&self, program: &str, args: &[&str]) {
        let program = self.bin.join(program);
        let mut command = match is_root() {
            false => Command::new(&program),
            true => {
                let mut command = Command::new("setpriv");
                let (user, group) = (id(&["-u", "postgres"]), id(&["-g", "postgres"]));
                command.args([format!("--reuid={user}"), format!("--regid={group}")]);
                command.args([Path::new("--clear-groups"), &program]);
                command
            }
        };
        command.arg("--pgdata").arg(self.dir.join("data")).args(args).current_dir(&self.dir);
        // The server inherits what is not replaced, and the caller would wait for its end.
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().unwrap();
        assert!(status.success(), "{program:?} {args:?}: {status}\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.dir.join("data/postmaster.pid").exists() && !std::thread::panicking() {
            self.pg_ctl("stop", &["--mode", "immediate"]);
        } else if std::thread::panicking() {
            let pid = std::fs::read_to_string(self.dir.join("data/postmaster.pid"));
            if let Some(pid) = pid.ok().and_then(|pid| pid.lines().next()?.parse().ok()) {
                crate::process::signal(pid, "QUIT");
            }
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn id(args: &[&str]) -> String {
    let out = Command::new("id").args(args).output().expect("`id` runs");
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn is_root() -> bool {
    id(&["-u"]) == "0"
}

/// The directory of the server's programs. Debian keeps them out of PATH.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions.map(|version| version.unwrap().path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = debian.chain(std::env::split_paths(&path)).collect();
    dirs.push("/usr/local/pgsql/bin".into());
    let mut dirs = dirs.into_iter();
    dirs.find(|dir| dir.join("initdb").exists() && dir.join("pg_ctl").exists()).expect(
        "this test starts a PostgreSQL server: run it with `scripts/test`, which installs one, or put `initdb` and `pg_ctl` into PATH",
    )
}
