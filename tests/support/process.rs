//! The program itself, as a child of the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use gavel::config::Address;
use serde_json::Value;

use super::raw::PATIENCE;

/// The program with arguments; nothing of the test's environment changes its settings.
pub fn gavel<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gavel"));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GAVEL_") {
            command.env_remove(name);
        }
    }
    command
}

/// `gavel serve` on free loopback ports, two unpinned shards, JSON logs.
pub fn serve(models: &Path) -> Command {
    let mut command = gavel(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "2", "--pin", "off"]);
    command.args(["--engine", "cpu", "--log-format", "json"]).arg("--models").arg(models);
    command
}

/// A run to its end, which must come soon.
pub fn run(command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id() as i32;
    let (done, ended) = channel();
    // Whatever hangs is killed; the output then tells where it was.
    let guard = std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(id).unwrap(), rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    guard.join().unwrap();
    output
}

/// The lines of a child's output.
pub fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}

/// A running `gavel serve`; killed when dropped.
pub struct Serving {
    child: Child,
    log: Receiver<Value>,
    seen: Vec<Value>,
    stderr: Option<std::thread::JoinHandle<String>>,
    /// Where it answers rank requests, in the order of its settings.
    pub addresses: Vec<Address>,
    /// Where it answers /readyz and so on.
    pub admin: SocketAddr,
}

impl Serving {
    /// Starts it and waits until it says that it is ready.
    pub fn start(command: &mut Command) -> Serving {
        let mut serving = Serving::launch(command);
        let line = serving.await_log("listening");
        serving.addresses = line["addresses"].as_str().unwrap().split(", ").map(|text| text.parse().unwrap()).collect();
        serving.await_log("ready");
        serving
    }

    /// Starts it and waits until its admin address answers; bundles are loaded next. It has no `addresses` yet.
    pub fn launch(command: &mut Command) -> Serving {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, log) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let parsed = serde_json::from_str(&line).unwrap_or_else(|error| panic!("a log line that is no JSON ({error}): {line}"));
                let _ = sender.send(parsed);
            }
        });
        let mut pipe = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = pipe.read_to_string(&mut text);
            text
        });
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut serving = Serving { child, log, seen: Vec::new(), stderr: Some(stderr), addresses: Vec::new(), admin };
        let line = serving.await_log("admin address answers");
        serving.admin = line["address"].as_str().unwrap().parse().unwrap();
        serving
    }

    /// Waits for a log line whose message begins so, also among those already seen.
    pub fn await_log(&mut self, message: &str) -> Value {
        let is_it = |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with(message));
        if let Some(line) = self.seen.iter().find(|line| is_it(line)) {
            return line.clone();
        }
        let until = Instant::now() + PATIENCE;
        loop {
            match self.log.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if is_it(&line) {
                        return line;
                    }
                }
                Err(error) => {
                    let _ = self.child.kill();
                    let stderr = self.stderr.take().map(|thread| thread.join().unwrap());
                    panic!("no log line {message:?} ({error}); stderr: {stderr:?}; log: {:#?}", self.seen);
                }
            }
        }
    }

    /// Of the child.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Waits for its end. Gives the status and what it wrote to stderr.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end; log: {:#?}", self.log.try_iter().collect::<Vec<_>>());
            std::thread::sleep(Duration::from_millis(2));
        };
        self.seen.extend(self.log.iter());
        (status, self.stderr.take().map_or(String::new(), |thread| thread.join().unwrap()))
    }

    /// Every log line so far.
    pub fn log(&mut self) -> &[Value] {
        self.seen.extend(self.log.try_iter());
        &self.seen
    }

    /// A page of the admin address: status and body.
    pub fn page(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
