//! Child processes: this test program again, with a role in its environment. A child ends when it has played its role, when it is killed,
//! or when its standard input is closed, which also happens if the test is killed.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use sqlx_signals::prelude::*;
use sqlx_signals::{DatabaseKind, DbOptions};

use crate::{Effects, Scene, fence, sweep, until_none_is_left, wake};

/// Where a child kills itself: when it has passed this many points.
static KILLED_AT: LazyLock<usize> = LazyLock::new(|| variable("AT").parse().unwrap_or(usize::MAX));
static PASSED: AtomicUsize = AtomicUsize::new(0);

/// A point at which a child can be killed.
pub(crate) fn point() {
    if PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *KILLED_AT {
        std::process::abort();
    }
}

fn variable(name: &str) -> String {
    std::env::var(format!("SIGNALS_CHILD_{name}")).unwrap_or_default()
}

/// The name of a child's connections at the server.
pub(crate) const CHILD: &str = "child";

/// The role of a child. In the test itself, there is none.
#[tokio::test]
async fn child() {
    let role = variable("ROLE");
    if role.is_empty() {
        return;
    }
    let effects = Effects { file: variable("EFFECTS").into(), is_child: true };
    let direct = Db::connect(&variable("DIRECT")).await.unwrap();
    let options = match role.as_str() {
        "pause" => fence::stops_before_a_transaction(&variable("NAME")),
        _ if direct.kind() == DatabaseKind::Sqlite => with_points(Db::options()),
        _ => Db::options().application_name(CHILD),
    };
    let db = options.connect(&variable("URL")).await.unwrap().with(effects);
    match role.as_str() {
        "store and work" => {
            sweep::store(&db, &variable("NAME")).await.unwrap();
            work(&db, &direct).await;
        }
        "work" => work(&db, &direct).await,
        "serve" => serve(&db).await,
        "pause" => fence::pause(&db, &variable("NAME")).await,
        "wait" => wake::wait(&db, &variable("NAME")).await,
        other => panic!("no child has the role `{other}`"),
    }
    println!("finished");
}

/// Every changed row, and every commit before it happens, is a point.
fn with_points(options: DbOptions) -> DbOptions {
    options.after_connect(|conn| {
        Box::pin(async move {
            let mut handle = conn.sqlite().unwrap().lock_handle().await?;
            handle.set_update_hook(|_| point());
            handle.set_commit_hook(|| {
                point();
                true
            });
            Ok(())
        })
    })
}

/// Works until no delivery is left.
async fn work(db: &Db, direct: &Db) {
    let worker = db.deliveries().worker().lease(Duration::from_secs(600));
    let worker = worker.poll(Duration::from_millis(20)).spawn().await.unwrap();
    until_none_is_left(direct).await;
    worker.shutdown().await.unwrap();
}

/// Works until the standard input is closed.
async fn serve(db: &Db) {
    let worker = db.deliveries().worker().lease(Duration::from_secs(1)).concurrency(3);
    let worker = worker.poll(Duration::from_millis(20)).spawn().await.unwrap();
    println!("ready");
    until_stdin_is_closed().await;
    worker.shutdown().await.unwrap();
}

/// Waits until the test ends this process.
pub(crate) async fn until_stdin_is_closed() {
    let read = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    read.await.unwrap().unwrap();
}

/// A running child.
pub(crate) struct Process {
    child: Arc<Mutex<Child>>,
    /// The file of its effects.
    effects: PathBuf,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
}

/// How a child has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Finished,
    Killed,
}

impl Process {
    /// Starts a child with a role on the database of a scene. `name` is what the role needs.
    pub(crate) fn start(scene: &Scene, role: &str, name: &str) -> Self {
        Self::start_at(scene, role, name, &scene.test.url, usize::MAX)
    }

    /// Starts a child that connects to `url`, and is killed at a point.
    pub(crate) fn start_at(scene: &Scene, role: &str, name: &str, url: &str, at: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::child", "--nocapture", "--test-threads=1"])
            .env("SIGNALS_CHILD_ROLE", role)
            .env("SIGNALS_CHILD_NAME", name)
            .env("SIGNALS_CHILD_URL", url)
            .env("SIGNALS_CHILD_DIRECT", &scene.test.url)
            .env("SIGNALS_CHILD_EFFECTS", &scene.effects.file)
            .env("SIGNALS_CHILD_AT", at.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let effects = scene.effects.file.clone();
        Self { child: Arc::new(Mutex::new(child)), effects, stdin, stdout }
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&self) {
        self.killer()();
    }

    /// What sends SIGKILL to the child.
    pub(crate) fn killer(&self) -> impl FnOnce() + Send + 'static {
        let child = Arc::clone(&self.child);
        move || child.lock().unwrap().kill().unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Lets the child continue after [`stop_this_process`].
    pub(crate) fn go_on(&self) {
        std::fs::write(continues(&self.effects), "").unwrap();
        signal(self.id(), "CONT");
    }

    /// Waits until the child is stopped by a signal.
    pub(crate) async fn until_stopped(&self) {
        let file = format!("/proc/{}/stat", self.id());
        let is_stopped = || std::fs::read_to_string(&file).unwrap().contains(") T ");
        let stopped = async {
            while !is_stopped() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), stopped).await.expect("the child stops");
    }

    /// Waits for a line of the child's output.
    pub(crate) async fn said(mut self, line: &'static str) -> Self {
        tokio::task::spawn_blocking(move || {
            let mut said = String::new();
            while !said.trim_end().ends_with(line) {
                said.clear();
                let read = self.stdout.read_line(&mut said).unwrap();
                assert!(read > 0, "a child ended without `{line}`");
            }
            self
        })
        .await
        .unwrap()
    }

    /// Closes the standard input, and waits for the end.
    pub(crate) async fn stop(mut self) -> End {
        self.stdin = None;
        self.end().await
    }

    /// Waits for the end.
    ///
    /// # Panics
    ///
    /// If the child has failed.
    pub(crate) async fn end(mut self) -> End {
        tokio::task::spawn_blocking(move || {
            let mut said = String::new();
            self.stdout.read_to_string(&mut said).unwrap();
            let status = self.child.lock().unwrap().wait().unwrap();
            match said.contains("finished\n") && status.success() {
                true => End::Finished,
                false if is_killed(status) => End::Killed,
                false => panic!("a child has failed with {status}: {said}"),
            }
        })
        .await
        .unwrap()
    }
}

fn is_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;

    // SIGABRT and SIGKILL.
    matches!(status.signal(), Some(6 | 9))
}

/// Stops this child until [`Process::go_on`]. The signal may reach other threads first, and this one, which runs all tasks, some time after
/// it was sent. This one does nothing in between.
pub(crate) fn stop_this_process() {
    signal(std::process::id(), "STOP");
    while !continues(Path::new(&variable("EFFECTS"))).exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The file that exists if the stopped child of these effects may continue.
fn continues(effects: &Path) -> PathBuf {
    effects.with_extension("continues")
}

/// Sends a signal to a process. The standard library sends only SIGKILL.
pub(crate) fn signal(process: u32, name: &str) {
    let script = format!("kill -{name} {process}");
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
}
