//! A headless Chromium, through WebDriver.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::process::Stdio;
use std::time::{Duration, Instant};

use fantoccini::elements::Element;
use fantoccini::error::CmdError;
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const MISSING: &str = "this test needs Chromium and its driver: run it with `scripts/test`, which installs them, or install them \
                       (Debian: apt-get install chromium chromium-driver)";

/// A headless Chromium. The driver ends with this value.
pub struct Browser {
    pub client: Client,
    _driver: Child,
}

impl Browser {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more arguments.
    pub async fn start_with(more: &[&str]) -> Self {
        // On port 0, the driver chooses a free port and prints it.
        let driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut driver = driver.unwrap_or_else(|error| panic!("{MISSING} ({error})"));
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next_line().await.unwrap().expect("the driver prints its port");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        // Drain the driver's output so that it does not block.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let args = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--window-size=1100,900",
        ];
        let args: Vec<_> = args.iter().chain(more).collect();
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".into(), json!({ "args": args }));
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap_or_else(|error| panic!("{MISSING} ({error})"));
        Self { client, _driver: driver }
    }
}

/// What `act` does with an element, as soon as the page has it. A page that updates itself may replace the element before, and then it is looked
/// for again.
async fn with_element<T>(
    client: &Client,
    css: &str,
    act: impl AsyncFn(Element) -> Result<T, CmdError>,
) -> T {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let found = client.wait().at_most(Duration::from_secs(60)).for_element(Locator::Css(css));
        let done = match found.await {
            Ok(element) => act(element).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(done) => return done,
            Err(error) if error.is_stale_element_reference() && Instant::now() < limit => {}
            Err(error) => panic!("{css}: {error}"),
        }
    }
}

/// The text of an element, which appears within a minute.
pub async fn text(client: &Client, css: &str) -> String {
    with_element(client, css, async |element| element.text().await).await
}

pub async fn click(client: &Client, css: &str) {
    with_element(client, css, async |element| element.click().await).await;
}
