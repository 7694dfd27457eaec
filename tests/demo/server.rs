//! The server under test: started on a free port, watched, and never left behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Longest wait for anything that should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Longest life of a server.
const WATCHDOG: Duration = Duration::from_secs(150);

const PROGRAM: &str = env!("CARGO_BIN_EXE_corecast");

/// Calls `probe` until it gives something.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running `corecast demo` with all its processes in a group of their own.
pub struct Demo {
    pub port: u16,
    child: Mutex<Child>,
    group: Pid,
    output: Arc<Mutex<Vec<String>>>,
    /// Dropped last: tells the watchdog that all is well.
    _alive: Sender<()>,
}

impl Demo {
    /// Starts the demo on a free port (unless `args` name one) and waits for its
    /// address.
    pub fn start(args: &[&str]) -> Demo {
        let mut command = command();
        command.arg("demo").args(args);
        if !args.contains(&"--port") {
            command.args(["--port", "0"]);
        }
        let mut child = command.spawn().expect("the program starts");
        let group = Pid::from_raw(child.id() as i32);
        let alive = watchdog(group);
        let output = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), &output);
        collect(child.stderr.take().unwrap(), &output);
        let mut demo = Demo {
            port: 0,
            child: Mutex::new(child),
            group,
            output,
            _alive: alive,
        };
        let line = demo.wait_for_line("corecast demo on http://");
        demo.port = line
            .trim_end_matches('/')
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .expect("a port");
        demo.wait_for_line("Ctrl-C");
        demo
    }

    /// All lines so far.
    fn lines(&self) -> Vec<String> {
        self.output.lock().unwrap().clone()
    }

    /// Waits for a line that contains `text`.
    pub fn wait_for_line(&self, text: &str) -> String {
        let find = || self.lines().into_iter().find(|line| line.contains(text));
        let start = Instant::now();
        loop {
            if let Some(line) = find() {
                return line;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "no line with {text:?} in {:#?}",
                self.lines()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes the next line that begins with `text` and ends with a pid.
    pub fn wait_for_pid_after(&self, text: &str) -> u32 {
        wait_for(text, || {
            let mut lines = self.output.lock().unwrap();
            let at = lines.iter().position(|line| line.starts_with(text))?;
            lines.remove(at)[text.len()..].parse().ok()
        })
    }

    /// Pids of the workers as announced at the start.
    pub fn worker_pids(&self) -> Vec<u32> {
        let line = self.wait_for_line("workers: ");
        let (_, list) = line.split_once("workers: ").unwrap();
        list.split(", ")
            .map(|entry| entry.rsplit(' ').next().unwrap().parse().unwrap())
            .collect()
    }

    /// Pid that the worker had at the start.
    pub fn worker_pid(&self, worker: usize) -> u32 {
        self.worker_pids()[worker]
    }

    /// Signals one worker.
    pub fn signal_worker(&self, pid: u32, signal: Signal) {
        kill(Pid::from_raw(pid as i32), signal).expect("the worker is there");
    }

    /// Stops one worker. It is sure to have stopped on return: a SIGTERM that comes
    /// before would be obeyed first.
    pub fn stop_worker(&self, pid: u32) {
        self.signal_worker(pid, Signal::SIGSTOP);
        wait_for("a worker to stop", || (state(pid)? == 'T').then_some(()));
    }

    /// Kills the master alone, the hard way.
    pub fn kill_master(&self) {
        kill(self.group, Signal::SIGKILL).unwrap();
    }

    /// Signals the whole group, as a terminal does.
    pub fn end_with(&self, signal: Signal) {
        killpg(self.group, signal).expect("the server is there");
    }

    /// Ctrl-C, and then [`expect_a_clean_end`](Self::expect_a_clean_end).
    pub fn interrupt_and_expect_a_clean_end(&self) {
        self.end_with(Signal::SIGINT);
        self.expect_a_clean_end();
    }

    /// Exit code 0, and no process left.
    pub fn expect_a_clean_end(&self) {
        self.expect_an_end_with(0);
    }

    /// This exit code, and no process left.
    pub fn expect_an_end_with(&self, code: i32) {
        let status = wait_for("the end", || self.child.lock().unwrap().try_wait().unwrap());
        assert_eq!(status.code(), Some(code), "{status}: {:#?}", self.lines());
        // The master has waited for its children: not even a zombie is left.
        assert!(
            killpg(self.group, None).is_err(),
            "processes left in the group"
        );
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.lock().unwrap().wait();
        if thread::panicking() {
            eprintln!("the server said: {:#?}", self.lines());
        }
    }
}

fn command() -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    // SAFETY: prctl is a bare system call.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    command
}

/// Ends everything if nobody drops the sender in time.
fn watchdog(group: Pid) -> Sender<()> {
    let (alive, ended): (Sender<()>, Receiver<()>) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the watchdog ends a test that hangs");
            let _ = killpg(group, Signal::SIGKILL);
            std::process::abort();
        }
    });
    alive
}

fn collect(from: impl Read + Send + 'static, to: &Arc<Mutex<Vec<String>>>) {
    let to = Arc::clone(to);
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            to.lock().unwrap().push(line);
        }
    });
}

/// Runs the program until it ends by itself.
pub fn run_to_end(args: &[&str]) -> (Option<i32>, String, String) {
    let mut child = command().args(args).spawn().expect("the program starts");
    let group = Pid::from_raw(child.id() as i32);
    let _alive = watchdog(group);
    let start = Instant::now();
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > PATIENCE {
            let _ = killpg(group, Signal::SIGKILL);
            panic!("{args:?} does not end");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.unwrap().read_to_string(&mut out).unwrap();
    child.stderr.unwrap().read_to_string(&mut err).unwrap();
    (status.code(), out, err)
}

/// A process's state as in /proc, or none if it is gone.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Waits until a process is gone or a zombie that nobody has collected yet.
pub fn wait_until_dead(pid: u32) {
    wait_for("the death of an orphan", || {
        state(pid).is_none_or(|state| state == 'Z').then_some(())
    });
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// One request on a connection of its own: head and body of the answer.
pub fn get(port: u16, path: &str, headers: &str) -> (String, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n"
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader);
    let length = head
        .to_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .expect("a length");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    (head, String::from_utf8(body).expect("text"))
}

fn read_head(reader: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).expect("a head") > 0, "{head}");
    }
    head
}
