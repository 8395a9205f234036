//! A browser, driven by the W3C's WebDriver protocol: JSON over HTTP, of which these tests need few
//! requests. Chromium's own commands (the DevTools protocol) set its size and color scheme.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::common::{eventually, need, run};

/// The name of an element in WebDriver's answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A running Chromium. Dropped, it ends.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

impl Browser {
    pub fn start() -> Browser {
        need("chromium", "chromium");
        need("chromedriver", "chromium-driver");
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--allowed-ips=127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let (_, port) = line.split_once("started successfully on port ")?;
            port.trim_end_matches('.').parse().ok()
        });
        let port: u16 = port.expect("chromedriver says its port");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut browser = Browser { driver, address, session: String::new() };
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
        ];
        let session = browser.post(
            "/session",
            json!({"capabilities": {"alwaysMatch": {
                "goog:chromeOptions": {"args": arguments},
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }}}),
        );
        let session = session["sessionId"].as_str().expect("a session");
        browser.session = format!("/session/{session}");
        browser
    }

    /// Sends a command; the value of its answer, or its error.
    fn request(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let path = if path == "/session" { path.to_owned() } else { self.session.clone() + path };
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let answer = exchange(self.address, method, &path, &body);
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let mut document: Value = serde_json::from_slice(&answer).expect("JSON");
        match document["value"]["error"].as_str() {
            Some(error) => Err(format!("{error}: {}", document["value"]["message"])),
            None => Ok(document["value"].take()),
        }
    }

    #[track_caller]
    fn post(&self, path: &str, body: Value) -> Value {
        self.request("POST", path, &body).unwrap_or_else(|error| panic!("{path} {body}: {error}"))
    }

    /// A command of the DevTools protocol.
    pub fn chromium(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({"cmd": command, "params": parameters}))
    }

    /// Looks as if by a screen of this width, with the scheme `light` or `dark`.
    pub fn look(&self, width: u32, scheme: &str) {
        let size = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.chromium("Emulation.setDeviceMetricsOverride", size);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.chromium("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Whether pages may run scripts.
    pub fn scripts(&self, enabled: bool) {
        self.chromium("Emulation.setScriptExecutionDisabled", json!({"value": !enabled}));
    }

    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("/url", json!({"url": url}));
    }

    #[track_caller]
    pub fn address(&self) -> String {
        let url = self.request("GET", "/url", &Value::Null).expect("an address");
        url.as_str().expect("text").to_owned()
    }

    /// What a function of JavaScript returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []}))
    }

    /// What a function of JavaScript gives to its last argument.
    #[track_caller]
    pub fn wait(&self, script: &str) -> Value {
        self.post("/execute/async", json!({"script": script, "args": []}))
    }

    /// The first element that a selector of CSS means.
    #[track_caller]
    fn find(&self, selector: &str) -> String {
        let element = self.post("/element", json!({"using": "css selector", "value": selector}));
        element[ELEMENT].as_str().expect("an element").to_owned()
    }

    #[track_caller]
    pub fn click(&self, selector: &str) {
        let element = self.find(selector);
        self.post(&format!("/element/{element}/click"), json!({}));
    }

    /// Clicks the link with this text.
    #[track_caller]
    pub fn follow(&self, text: &str) {
        let element = self.post("/element", json!({"using": "link text", "value": text}));
        let element = element[ELEMENT].as_str().expect("an element");
        self.post(&format!("/element/{element}/click"), json!({}));
    }

    /// Types text into a field in place of what it has.
    #[track_caller]
    pub fn fill(&self, selector: &str, text: &str) {
        let element = self.find(selector);
        self.post(&format!("/element/{element}/clear"), json!({}));
        self.post(&format!("/element/{element}/value"), json!({"text": text}));
    }

    /// Presses a key where the focus is.
    pub fn press(&self, key: &str) {
        let actions = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.post("/actions", json!({"actions": [keyboard]}));
    }

    /// The text that is seen; nothing while one page gives way to another.
    pub fn text(&self) -> String {
        let body = json!({"using": "css selector", "value": "body"});
        let element = self.request("POST", "/element", &body).unwrap_or_default();
        let element = element[ELEMENT].as_str().unwrap_or_default();
        let text = self.request("GET", &format!("/element/{element}/text"), &Value::Null);
        text.unwrap_or_default().as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page shows a text.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        let mut seen = String::new();
        for _ in 0..100 {
            seen = self.text();
            if seen.contains(text) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{text:?} is not on {}: {seen}", self.address());
    }

    /// Waits until the address ends so.
    pub fn comes_to(&self, end: &str) {
        eventually(end, || self.address().ends_with(end));
    }

    /// Whether a page has opened a dialog.
    pub fn has_dialog(&self) -> bool {
        self.request("GET", "/alert/text", &Value::Null).is_ok()
    }

    /// What the browser complains of since it was asked last: errors of scripts, what a policy has
    /// kept it from, what could not be loaded.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.post("/se/log", json!({"type": "browser"}));
        let entries = entries.as_array().expect("a list").iter();
        entries.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The addresses that it has asked for since it was asked last. What a policy keeps it from is
    /// not among them.
    pub fn requests(&self) -> Vec<String> {
        let entries = self.post("/se/log", json!({"type": "performance"}));
        let mut asked: Vec<(String, String)> = Vec::new();
        for entry in entries.as_array().expect("a list") {
            let text = entry["message"].as_str().expect("text");
            let event: Value = serde_json::from_str(text).expect("JSON");
            let (method, parameters) = (&event["message"]["method"], &event["message"]["params"]);
            let id = parameters["requestId"].as_str().unwrap_or_default();
            if method == "Network.requestWillBeSent" {
                let url = parameters["request"]["url"].as_str().unwrap_or_default();
                asked.push((id.to_owned(), url.to_owned()));
            } else if method == "Network.loadingFailed" && parameters["blockedReason"] == "csp" {
                asked.retain(|(known, _)| known != id);
            }
        }
        asked.into_iter().map(|(_, url)| url).collect()
    }

    /// Writes a picture of the whole page below the target folder.
    pub fn picture(&self, name: &str) {
        let folder = pictures();
        fs::create_dir_all(&folder).expect("a folder");
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.chromium("Page.captureScreenshot", parameters);
        let bytes = BASE64.decode(picture["data"].as_str().expect("data")).expect("base64");
        fs::write(folder.join(format!("{name}.png")), bytes).expect("writable");
    }

    /// What axe-core finds wrong with the page for people who do not see, or do not use a mouse.
    pub fn barriers(&self, axe: &str) -> Vec<String> {
        let run = "const done = arguments[arguments.length - 1];
            axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})
                .then((found) => done(found.violations.map((v) => `${v.id}: ${v.help}: ` +
                    v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200) + ' ' + n.failureSummary).join(' | '))))
                .catch((error) => done(['axe failed: ' + error]));";
        let found = self.wait(&format!("{axe}\n{run}"));
        let found = found.as_array().expect("a list").iter();
        found.map(|text| text.as_str().expect("text").to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends with its session.
        drop(self.request("DELETE", "", &Value::Null));
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}

/// Sends a request, and returns the body of its answer. chromedriver keeps the connection open, so
/// the length in the head says where the answer ends.
fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<Vec<u8>> {
    /// Starting a browser takes a while on a machine that has other things to do.
    const PATIENCE: Duration = Duration::from_secs(120);
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some((_, value)) =
            line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn pictures() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("page")
}

/// The source of axe-core, which npm installs below the target folder.
pub fn axe() -> String {
    const VERSION: &str = "4.10.3";
    need("npm", "npm");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("axe");
    let file = folder.join("node_modules/axe-core/axe.min.js");
    if !file.is_file() {
        fs::create_dir_all(&folder).expect("a folder");
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&folder);
        run(npm.arg(format!("axe-core@{VERSION}")));
    }
    fs::read_to_string(&file).expect("axe-core")
}
