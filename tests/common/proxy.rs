//! A proxy between a client and the PostgreSQL server that records what the client sends.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use sqlx_signals::Db;
use sqlx_signals::sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// What the client has sent since the log was last taken: the text of statements, `ping` for a bare Sync, and how often
/// it has sent something after the server's answer (round trips).
#[derive(Default, Debug)]
pub struct Said {
    pub statements: Vec<String>,
    pub round_trips: usize,
    /// The names that were given to statements.
    pub names: Vec<String>,
    servers_turn: bool,
    /// What happens to the next connection on which the server completes a statement.
    hang_up: Option<(&'static [&'static str], Passes)>,
    trap: Option<Trap>,
}

/// How much of the answer to a statement reaches the client before its connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passes {
    Nothing,
    /// The rows and the completion of the statement, but not that the server is ready.
    Completion,
    /// As `Completion`, and then a FATAL error.
    CompletionAndFatal,
}

/// The command tags of writes.
pub const WRITES: &[&str] = &["INSERT", "UPDATE", "DELETE"];

const WRITES_OR_SELECT: &[&str] = &["INSERT", "UPDATE", "DELETE", "SELECT"];

/// What happens to the client when it sends its next message but `message`. Messages that are sent together count as one.
pub struct Trap {
    pub message: usize,
    /// Whether the server still receives the message.
    pub passes_on: bool,
    pub action: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Trap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trap").field("message", &self.message).finish_non_exhaustive()
    }
}

impl Said {
    /// Counts a message, and returns the trap if it is reached.
    fn trapped(&mut self) -> Option<Trap> {
        match &mut self.trap {
            Some(trap) if trap.message == 0 => self.trap.take(),
            Some(trap) => {
                trap.message -= 1;
                None
            }
            None => None,
        }
    }
}

pub struct Proxy {
    said: Arc<Mutex<Said>>,
    port: u16,
    /// Cuts every connection.
    cut: Arc<tokio::sync::Notify>,
    /// Messages of connections with a lower number are no longer passed on, in either direction.
    silent: Arc<AtomicUsize>,
    /// The number of the next connection.
    next: Arc<AtomicUsize>,
    /// The connections that neither side has closed.
    open: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn start(url: &str) -> Self {
        let options = PgConnectOptions::from_str(url).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let said = Arc::new(Mutex::new(Said::default()));
        let cut = Arc::new(tokio::sync::Notify::new());
        let (log, cutter) = (Arc::clone(&said), Arc::clone(&cut));
        let (silent, next) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (silence, numbers) = (Arc::clone(&silent), Arc::clone(&next));
        let open = Arc::new(AtomicUsize::new(0));
        let opened = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).unwrap();
                let (log, cutter, options) =
                    (Arc::clone(&log), Arc::clone(&cutter), options.clone());
                let number = numbers.fetch_add(1, Ordering::SeqCst);
                let (silence, opened) = (Arc::clone(&silence), Arc::clone(&opened));
                opened.fetch_add(1, Ordering::SeqCst);
                let is_silent = move || number < silence.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let relay = async {
                        let (host, port) = (options.get_host().to_owned(), options.get_port());
                        match options
                            .get_socket()
                            .cloned()
                            .or(host.starts_with('/').then(|| host.clone().into()))
                        {
                            Some(dir) => {
                                let path = dir.join(format!(".s.PGSQL.{port}"));
                                let server = UnixStream::connect(path).await.unwrap();
                                relay(client, server, log, &is_silent).await;
                            }
                            None => {
                                let server = TcpStream::connect((host, port)).await.unwrap();
                                relay(client, server, log, &is_silent).await
                            }
                        }
                    };
                    tokio::select! { () = relay => {}, () = cutter.notified() => {} }
                    opened.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { said, port, cut, silent, next, open }
    }

    /// A pool through the proxy, set up as [`Db::connect`] sets it up.
    pub async fn db(&self, url: &str) -> Db {
        Db::connect(&self.url(url)).await.unwrap()
    }

    /// The URL of the same database through the proxy.
    pub fn url(&self, url: &str) -> String {
        let query = "sslmode=disable";
        let (base, _) = url.split_once('?').unwrap_or((url, ""));
        let (server, name) = base.rsplit_once('/').unwrap();
        let user =
            server.rsplit_once("//").unwrap().1.rsplit_once('@').unwrap_or(("postgres", "")).0;
        format!("postgres://{user}@127.0.0.1:{}/{name}?{query}", self.port)
    }

    /// Waits until the proxy has closed every connection to a client, because the server has closed its side.
    pub async fn all_closed(&self) {
        while self.open.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// From now on every connection is open and silent, new ones too.
    pub fn silence_all(&self) {
        self.silent.store(usize::MAX, Ordering::SeqCst);
    }

    /// The connections that are open now are silent from now on.
    pub fn silence_open(&self) {
        self.silent.store(self.next.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Closes the connection when the server has reported that a write is complete, before it reports that it is ready.
    pub fn hang_up_after_a_write(&self) {
        self.lose_answer(WRITES, Passes::CompletionAndFatal);
    }

    /// Closes the connection when the server has completed a statement with one of these command tags.
    pub fn lose_answer(&self, tags: &'static [&'static str], passes: Passes) {
        self.said.lock().unwrap().hang_up = Some((tags, passes));
    }

    /// Whether a connection was closed since `lose_answer` was called.
    pub fn has_lost_answer(&self) -> bool {
        self.said.lock().unwrap().hang_up.is_none()
    }

    pub fn set_trap(&self, trap: Trap) {
        self.said.lock().unwrap().trap = Some(trap);
    }

    pub fn take(&self) -> Said {
        let mut said = self.said.lock().unwrap();
        // The next message of the client begins a round trip.
        std::mem::replace(&mut *said, Said { servers_turn: true, ..Said::default() })
    }

    pub fn take_statements(&self) {
        self.said.lock().unwrap().statements.clear();
    }

    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().statements.clone()
    }

    pub fn cut(&self) {
        self.cut.notify_waiters();
    }
}

async fn relay<S>(
    client: TcpStream,
    server: S,
    log: Arc<Mutex<Said>>,
    is_silent: &(dyn Fn() -> bool + Send + Sync),
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let silence = async || {
        if is_silent() {
            std::future::pending::<()>().await;
        }
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let server_log = Arc::clone(&log);
    let answers = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            silence().await;
            let hang_up = {
                let mut said = server_log.lock().unwrap();
                said.servers_turn = true;
                // A statement that writes in its WITH clause may be a SELECT.
                let writes = said.statements.last().is_some_and(|sql| sql.starts_with("WITH _"));
                let end = said.hang_up.and_then(|(tags, passes)| {
                    let tags = if writes && tags == WRITES { WRITES_OR_SELECT } else { tags };
                    Some((end_of_statement(&buffer[..n], tags)?, passes))
                });
                if end.is_some() {
                    said.hang_up = None;
                }
                end
            };
            if let Some((end, passes)) = hang_up {
                let last = match passes {
                    Passes::Nothing => Vec::new(),
                    Passes::Completion => buffer[..end].to_vec(),
                    Passes::CompletionAndFatal => [&buffer[..end], FATAL].concat(),
                };
                let _ = to_client.write_all(&last).await;
                break;
            }
            if to_client.write_all(&buffer[..n]).await.is_err() {
                break;
            }
        }
    };
    let questions = async {
        let mut parser = Parser::default();
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            silence().await;
            let trap = {
                let mut said = log.lock().unwrap();
                parser.read(&buffer[..n], &mut said);
                if parser.started { said.trapped() } else { None }
            };
            let passes_on = trap.as_ref().is_none_or(|trap| trap.passes_on);
            if passes_on && to_server.write_all(&buffer[..n]).await.is_err() {
                break;
            }
            if let Some(trap) = trap {
                (trap.action)();
                break;
            }
        }
    };
    tokio::select! { () = answers => {}, () = questions => {} }
}

/// The message of a server that an administrator shuts down.
const FATAL: &[u8] = b"E\0\0\0\x23SFATAL\0VFATAL\0C57P01\0Mhung up\0\0";

/// The position at which the server's answers complete the first statement with one of these command tags.
fn end_of_statement(mut answers: &[u8], tags: &[&str]) -> Option<usize> {
    let all = answers.len();
    while let [kind, a, b, c, d, body @ ..] = answers {
        let length = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).checked_sub(4)?;
        let complete = *kind == b'C' && tags.iter().any(|tag| body.starts_with(tag.as_bytes()));
        answers = body.get(length..)?;
        if complete {
            return Some(all - answers.len());
        }
    }
    None
}

/// Reads the client's side of the protocol (https://www.postgresql.org/docs/current/protocol-message-formats.html).
#[derive(Default)]
struct Parser {
    bytes: Vec<u8>,
    started: bool,
    prepared: HashMap<Vec<u8>, String>,
    bound: String,
    silent: bool,
}

impl Parser {
    fn read(&mut self, bytes: &[u8], said: &mut Said) {
        self.bytes.extend_from_slice(bytes);
        let head = |started| if started { 1 } else { 0 };
        loop {
            let at = head(self.started);
            let Some(length) = self.bytes.get(at..at + 4) else {
                return;
            };
            let length = at + u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if self.bytes.len() < length {
                return;
            }
            let message: Vec<u8> = self.bytes.drain(..length).collect();
            if !self.started {
                // Version 3.0 of the protocol. Anything else requests TLS, which the server refuses.
                self.started = message[4..8] == [0, 3, 0, 0];
                self.silent = true;
                continue;
            }
            self.message(message[0], &message[5..], said);
        }
    }

    fn message(&mut self, kind: u8, body: &[u8], said: &mut Said) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
        let mut parts = body.splitn(3, |b| *b == 0);
        let mut next = || parts.next().unwrap_or_default().to_vec();
        if !matches!(kind, b'p' | b'X') && std::mem::take(&mut said.servers_turn) {
            said.round_trips += 1;
        }
        match kind {
            b'Q' => said.statements.push(text(body)),
            b'P' => {
                let name = next();
                if !name.is_empty() {
                    said.names.push(text(&name));
                }
                self.prepared.insert(name, text(&next()));
                self.silent = false;
            }
            b'B' => {
                next();
                self.bound = self.prepared.get(&next()).cloned().unwrap_or_default();
            }
            b'E' => {
                said.statements.push(self.bound.clone());
                self.silent = false;
            }
            b'D' | b'C' => self.silent = false,
            b'S' if std::mem::replace(&mut self.silent, true) => {
                said.statements.push("ping".to_owned())
            }
            _ => {}
        }
    }
}
