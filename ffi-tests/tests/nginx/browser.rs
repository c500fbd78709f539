//! A browser without a window, spoken to through pipes in the DevTools protocol: each message is
//! JSON with a zero behind it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use ebbtide_ffi_tests::clean;
use serde_json::{Value, json};

use crate::config::Folder;

/// The protocol's pipes are file descriptors 3 and 4.
const START: &str = "exec \"$@\" 3<&0 4>&1";
/// No question of the browser's own leaves the machine.
#[rustfmt::skip]
const FLAGS: [&str; 9] = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-pipe",
];
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running browser with one page in it.
pub struct Browser {
    process: Child,
    input: ChildStdin,
    output: Receiver<Value>,
    session: Value,
    last_id: u64,
    console: Vec<String>,
    _profile: Folder,
}

impl Browser {
    pub fn start() -> Browser {
        let profile = Folder::new();
        let mut command = clean("sh");
        command.args(["-c", START, "sh", "chromium"]).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.file("profile").display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("a shell can be run");
        let input = process.stdin.take().expect("a pipe");
        let messages = BufReader::new(process.stdout.take().expect("a pipe")).split(0);
        let (sender, output) = channel();
        thread::spawn(move || {
            for message in messages.map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("the protocol is JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let (session, console) = (Value::Null, Vec::new());
        let mut browser =
            Browser { process, input, output, session, last_id: 0, console, _profile: profile };
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let target = json!({ "targetId": page["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", target)["sessionId"].clone();
        for domain in ["Runtime", "Log", "Page"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    pub fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({ "url": address }));
    }

    /// The value of an expression of JavaScript in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let question = json!({ "expression": expression, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", question);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// The text of the page as a person sees it.
    pub fn text(&mut self) -> String {
        self.value("document.body?.innerText ?? ''").as_str().expect("text").to_owned()
    }

    /// Waits until the page is as it should be.
    pub fn wait_until(&mut self, what: &str, patience: Duration, done: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            let text = self.text();
            if done(&text) {
                return;
            }
            assert!(start.elapsed() < patience, "{what}: not within {patience:?}\n{text}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// As on a screen of this width, light or dark.
    pub fn show_as(&mut self, width: u32, scheme: &str) {
        let screen = json!({
            "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600
        });
        self.call("Emulation.setDeviceMetricsOverride", screen);
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call("Emulation.setEmulatedMedia", json!({ "features": [feature] }));
    }

    /// What was said on the console, and what went wrong in the page, since the last time.
    pub fn complaints(&mut self) -> Vec<String> {
        // What was said before this is answered has arrived.
        self.value("0");
        std::mem::take(&mut self.console)
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut question = json!({ "id": id, "method": method, "params": parameters });
        if self.session != Value::Null {
            question["sessionId"] = self.session.clone();
        }
        write!(self.input, "{question}\0").expect("chromium reads");
        self.input.flush().expect("chromium reads");
        loop {
            let message = self.output.recv_timeout(PATIENCE);
            let message = message.expect(
                "chromium does not answer: install it (ffi-tests/setup.sh does, where it may)",
            );
            if message["id"] == id {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let of = ["Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"];
        if of.iter().any(|method| event["method"] == *method) {
            self.console.push(event["params"].to_string());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends when its pipe does, with all its processes; but not longer than this.
        let _ = write!(self.input, "{{\"id\":0,\"method\":\"Browser.close\"}}\0");
        let _ = self.input.flush();
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
