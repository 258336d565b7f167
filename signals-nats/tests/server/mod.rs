//! A NATS server of one test, which can be killed and started again.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use signals_nats::StreamConfig;
use signals_nats::async_nats::jetstream::consumer::{AckPolicy, pull};
use signals_nats::async_nats::{self, Client, ConnectOptions, jetstream};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

pub struct NatsServer {
    port: u16,
    dir: PathBuf,
    process: Option<Child>,
}

/// The program of the server.
fn program() -> String {
    let paths = ["/usr/sbin/nats-server", "/usr/local/sbin/nats-server"];
    let found = paths.into_iter().find(|path| std::path::Path::new(path).exists());
    std::env::var("NATS_SERVER").ok().or(found.map(str::to_owned)).unwrap_or("nats-server".into())
}

/// A free port outside of the range from which the system chooses the ports of clients. In that range, a client that connects while the
/// server is down may connect to itself, and the port is taken.
fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(10_000..32_000)).find(free).unwrap()
}

impl NatsServer {
    /// A server that is not started yet.
    pub fn down() -> Self {
        let port = free_port();
        let name = format!("nats_{}_{port}", std::process::id());
        let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        Self { port, dir, process: None }
    }

    pub async fn start() -> Self {
        let mut server = Self::down();
        server.restart().await;
        server
    }

    /// Starts the server with what it has stored before.
    pub async fn restart(&mut self) {
        self.kill();
        let mut command = Command::new(program());
        command.args(["--addr", "127.0.0.1", "--port", &self.port.to_string(), "--jetstream"]);
        command.arg("--store_dir").arg(&self.dir).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect(
            "the tests need a NATS server: run them with `scripts/test`, which installs it, or set NATS_SERVER to its program",
        );
        self.process = Some(process);
        for _ in 0..1200 {
            // A server that is ready sends its description.
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)).await
                && let Ok(1..) = stream.read(&mut [0; 16]).await
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the NATS server has not started within a minute");
    }

    /// Kills the server with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A client that also waits for a server that is down, and notices soon that it is up.
    pub async fn client(&self) -> Client {
        let options = ConnectOptions::new().retry_on_initial_connect();
        let options = options.reconnect_delay_callback(|_| Duration::from_millis(100));
        options.connect(self.url()).await.unwrap()
    }

    /// The messages of a stream from its first one, of which there must be at least `count`, and no more.
    pub async fn messages(&self, stream: &str, count: usize) -> Vec<async_nats::Message> {
        let context = jetstream::new(self.client().await);
        let stream = context.get_stream(stream).await.unwrap();
        assert_eq!(stream.cached_info().state.messages, count as u64);
        let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
        let consumer = stream.create_consumer(config).await.unwrap();
        let messages = consumer.fetch().max_messages(count).messages().await.unwrap();
        messages.take(count).map(|message| message.unwrap().message).collect().await
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The stream of the shop.
pub fn shop() -> StreamConfig {
    let subjects = vec!["shop.>".to_owned()];
    StreamConfig { name: "SHOP".to_owned(), subjects, ..StreamConfig::default() }
}

/// How many messages the stream has; 0 if it does not exist or the server is down.
pub async fn stored(client: &Client, stream: &str) -> u64 {
    match jetstream::new(client.clone()).get_stream(stream).await {
        Ok(stream) => stream.cached_info().state.messages,
        Err(_) => 0,
    }
}

/// Waits up to three minutes.
pub async fn until(mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..9_000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("what was waited for did not happen within three minutes");
}
