//! `corecast run`: the hub is there and found, signals go through, exit codes come back, nothing
//! is left. Under real servers it runs in `bindings/python/tests` and `tests/cluster`.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use common::{LONG, Watchdog, wait_until};
use corecast::{ConnectError, Hub};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn corecast(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corecast"));
    command.args(words).stdin(Stdio::null());
    command
}

fn output(words: &[&str]) -> Output {
    corecast(words).output().expect("corecast starts")
}

fn code(words: &[&str]) -> Option<i32> {
    output(words).status.code()
}

/// A shell under the launcher that does what it is told, and says what it sees.
struct Shell {
    launcher: Child,
    input: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Shell {
    fn start(options: &[&str], script: &str) -> Self {
        let words = [&["run"], options, &["--", "sh", "-c", script]].concat();
        let mut command = corecast(&words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut launcher = command.spawn().expect("corecast starts");
        let input = launcher.stdin.take().expect("piped");
        let lines = BufReader::new(launcher.stdout.take().expect("piped")).lines();
        Self {
            launcher,
            input,
            lines,
        }
    }

    fn says(&mut self) -> String {
        let line = self.lines.next().expect("it says something");
        line.expect("text")
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.launcher.id() as i32), signal).expect("it runs");
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.launcher.kill(); // the shell gets SIGTERM then
        let _ = self.launcher.wait();
    }
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let _watchdog = Watchdog::new(LONG);
    assert_eq!(code(&["run", "--", "true"]), Some(0));
    assert_eq!(code(&["run", "--", "sh", "-c", "exit 37"]), Some(37));
    assert_eq!(code(&["run", "--", "sh", "-c", "kill -KILL $$"]), Some(137));
    assert_eq!(code(&["run", "--", "sh", "-c", "kill -TERM $$"]), Some(143));
}

#[test]
fn what_is_wrong_is_said_with_a_code_of_its_own() {
    let _watchdog = Watchdog::new(LONG);
    let says = |words: &[&str], code: i32, part: &str| {
        let out = output(words);
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(part), "{words:?}: {text}");
    };
    says(
        &["run", "--", "no-such-command-here"],
        127,
        "cannot start no-such-command-here",
    );
    says(&["run", "--", "/etc/passwd"], 126, "Permission denied");
    says(&["run"], 2, "COMMAND");
    says(&["run", "--workers", "0", "true"], 2, "0 is not in");
    says(&["run", "--workers", "9000", "true"], 1, "at most 4032");
    says(&["run", "--queue-bytes", "4T", "true"], 2, "k, M or G");
    says(&["run", "--socket", "nonsense", "true"], 1, "begins with @");
    let help = output(&["run", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("CORECAST_SOCKET"));
    assert_eq!(help.status.code(), Some(0));
}

#[test]
fn processes_find_the_hub_in_the_environment_until_the_command_ends() {
    let _watchdog = Watchdog::new(LONG);
    let options = ["--workers", "2", "--cores", "3", "--max-message", "2k"];
    let mut shell = Shell::start(&options, "echo $CORECAST_SOCKET; read word; exit 5");
    let name = shell.says();
    {
        let hubs = [(); 2].map(|()| Hub::connect(&name, LONG).expect("a seat"));
        let config = hubs[0].config();
        assert_eq!((config.cores, config.max_message), (3, 2048));
        let mut ann = hubs[0].attach_any().expect("a core");
        let mut bob = hubs[1].attach_any().expect("a core");
        bob.join("all").expect("joined");
        ann.send("all", b"hello").expect("sent");
        let message = bob.recv_timeout(LONG).expect("received").expect("in time");
        assert_eq!((message.body, message.sender.worker), (&b"hello"[..], 0));
    }
    shell.input.write_all(b"go\n").expect("it reads");
    assert_eq!(shell.launcher.wait().expect("it ends").code(), Some(5));
    assert_eq!(Hub::connect(&name, LONG).err(), Some(ConnectError::Nobody));
}

#[test]
fn each_signal_reaches_the_command_once() {
    let _watchdog = Watchdog::new(LONG);
    let signals = [
        "HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "WINCH", "TTIN", "TTOU",
    ];
    let traps: Vec<String> = signals.map(|s| format!("trap 'echo {s}' {s};")).into();
    // It ends with the launcher, though it takes no notice of SIGTERM.
    let rest = "echo ready; while kill -0 $PPID 2>/dev/null; do sleep 0.02; done";
    let script = format!("{} {rest}", traps.concat());
    let mut shell = Shell::start(&[], &script);
    assert_eq!(shell.says(), "ready");
    for signal in signals {
        shell.signal(format!("SIG{signal}").parse().expect("a signal"));
        assert_eq!(shell.says(), signal);
    }
}

#[test]
fn a_command_whose_launcher_is_killed_ends_with_it() {
    let _watchdog = Watchdog::new(LONG);
    let mut shell = Shell::start(&[], "echo $$ $CORECAST_SOCKET; read word");
    let said = shell.says();
    let (pid, name) = said.split_once(' ').expect("both");
    let _guest = Hub::connect(name, LONG).expect("a seat");
    shell.signal(Signal::SIGKILL);
    assert_eq!(shell.launcher.wait().expect("it ends").signal(), Some(9));
    let stat = format!("/proc/{pid}/stat");
    let is_over = || std::fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "));
    wait_until("the command has ended", is_over);
    assert_eq!(Hub::connect(name, LONG).err(), Some(ConnectError::Nobody));
}

/// As the first process of a container it has to reap what others leave.
#[test]
fn children_of_others_are_reaped_too() {
    let _watchdog = Watchdog::new(LONG);
    let script = "unshare --pid --fork --mount-proc true 2>/dev/null || { echo skipped; exit; }; \
                  echo there";
    let shell = Command::new("sh")
        .args(["-c", script])
        .output()
        .expect("sh");
    if shell.stdout.starts_with(b"skipped") {
        common::say("skipped: no new pid namespace is permitted here\n");
        return;
    }
    // An orphan that ends, and the zombies of process 1, counted until there is none.
    let script = "(sleep 0.05 &); sleep 0.2; n=1; for i in $(seq 300); do \
                  n=$(cat /proc/[0-9]*/stat | grep -c ' Z 1 '); [ $n = 0 ] && break; sleep 0.1; \
                  done; echo $n";
    let words = [
        "--pid",
        "--fork",
        "--mount-proc",
        env!("CARGO_BIN_EXE_corecast"),
    ];
    let out = Command::new("unshare")
        .args(words)
        .args(["run", "--", "sh", "-c", script])
        .output()
        .expect("unshare");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "0", "{out:?}");
    assert_eq!(out.status.code(), Some(0));
}
