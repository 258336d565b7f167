//! Finds the [`WriteQueue`] of a database: all pools of the same file share one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};

use percent_encoding::percent_decode_str;
use sqlx::SqlitePool;

use crate::database::write_queue::WriteQueue;

/// What identifies a database.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Identity {
    /// A file, by its device and inode, so that the spelling of its path does not matter.
    #[cfg(unix)]
    File(u64, u64),
    /// The canonical path of a file, or the name of an in-memory database that several connections share.
    Name(PathBuf),
}

/// The queue of one database, once it is known.
#[derive(Debug, Default)]
pub(crate) struct QueueSlot(OnceLock<Option<Arc<WriteQueue>>>);

impl QueueSlot {
    /// The queue of the database of `pool`. Returns `None` if the connections can only read, or if each has a database of its
    /// own. Also returns `None` if the file does not exist yet, because no connection was opened.
    pub(crate) fn of(&self, pool: &SqlitePool) -> Option<&Arc<WriteQueue>> {
        match self.0.get() {
            Some(queue) => queue.as_ref(),
            None => self.find(pool),
        }
    }

    #[cold]
    fn find(&self, pool: &SqlitePool) -> Option<&Arc<WriteQueue>> {
        let queue = match identity(pool) {
            Found::Shared(identity) => Some(queue(identity)),
            Found::NotShared => None,
            Found::NotYet => return None,
        };
        self.0.get_or_init(|| queue).as_ref()
    }
}

enum Found {
    Shared(Identity),
    NotShared,
    NotYet,
}

fn identity(pool: &SqlitePool) -> Found {
    let options = pool.connect_options();
    let name = options.get_filename();
    // sqlx has no getters for the other options.
    let debug = format!("{options:?}").replace(&format!("{name:?}"), "");
    let is = |option: &str| debug.contains(option);
    let is_unnamed = name.as_os_str().is_empty() || name.as_os_str() == ":memory:";
    let is_private = is_unnamed || is("in_memory: true") && is("shared_cache: false");
    let location = Location::of(name);
    let is_read_only = is("read_only: true") || location.has("mode=ro");
    if is_private || is_read_only || is("immutable: true") || location.has("immutable=1") {
        return Found::NotShared;
    }
    match of_file(&location.path) {
        Ok(identity) if !is("in_memory: true") && !location.has("mode=memory") => {
            Found::Shared(identity)
        }
        _ if pool.size() == 0 => Found::NotYet,
        // A connection is open, so this is not a path but the name of an in-memory database.
        _ => Found::Shared(Identity::Name(name.to_owned())),
    }
}

/// What a file name says to SQLite, which may be a [URI](https://www.sqlite.org/uri.html).
struct Location<'n> {
    path: Cow<'n, Path>,
    parameters: &'n str,
}

impl<'n> Location<'n> {
    fn of(name: &'n Path) -> Self {
        let Some(uri) = name.to_str().and_then(|name| name.strip_prefix("file:")) else {
            return Self { path: name.into(), parameters: "" };
        };
        let uri = uri.split('#').next().unwrap_or(uri);
        let (path, parameters) = uri.split_once('?').unwrap_or((uri, ""));
        // What follows `//` is the host: nothing, or `localhost`.
        let without_host = |path: &'n str| path.find('/').map_or("", |at| &path[at..]);
        let path = path.strip_prefix("//").map_or(path, without_host);
        let path = percent_decode_str(path).decode_utf8_lossy().into_owned();
        Self { path: PathBuf::from(path).into(), parameters }
    }

    fn has(&self, parameter: &str) -> bool {
        self.parameters.split('&').any(|found| found == parameter)
    }
}

#[cfg(unix)]
fn of_file(path: &Path) -> std::io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;

    std::fs::metadata(path).map(|file| Identity::File(file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn of_file(path: &Path) -> std::io::Result<Identity> {
    std::fs::canonicalize(path).map(Identity::Name)
}

/// The queue of a file that is open.
pub(crate) fn of_open_file(path: &Path) -> Option<Arc<WriteQueue>> {
    of_file(path).ok().map(queue)
}

fn queue(identity: Identity) -> Arc<WriteQueue> {
    static QUEUES: LazyLock<Mutex<HashMap<Identity, Weak<WriteQueue>>>> =
        LazyLock::new(Mutex::default);
    let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(queue) = queues.get(&identity).and_then(Weak::upgrade) {
        return queue;
    }
    queues.retain(|_, queue| queue.strong_count() > 0);
    let shares_commits = !matches!(&identity, Identity::Name(name) if !name.exists());
    let queue = Arc::new(WriteQueue::new(shares_commits));
    queues.insert(identity, Arc::downgrade(&queue));
    queue
}
