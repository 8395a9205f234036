//! One run of a command: its output by line, its end, or ours of it.
//!
//! The command leads a process group of its own. What it leaves in the
//! background goes on when it ends in order, but is not listened to any more.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// From the wish that it ends (SIGTERM) to its end (SIGKILL).
const GRACE: Duration = Duration::from_secs(5);
/// How often it is seen that everything is to end.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes of a line; a longer one is told in several.
const LINE_MAX: usize = 1024;
/// What is read of the output of a command that has ended: more than a pipe holds.
const REST_MAX: usize = 1 << 20;

#[derive(Debug)]
pub enum Outcome {
    Ended(ExitStatus),
    TimedOut,
    Stopped,
}

/// Runs a command until it ends, `timeout` is over or `stop` is set. `line` gets
/// what it says, on either stream.
pub fn run(
    mut command: Command,
    timeout: Duration,
    stop: &AtomicBool,
    line: impl FnMut(&[u8]),
) -> io::Result<Outcome> {
    let (output, input) = io::pipe()?;
    fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input).process_group(0);
    let mut child = command.spawn()?;
    // It holds the pipe's other end, which would never close.
    drop(command);
    let mut lines = Lines::new(File::from(OwnedFd::from(output)), line);
    let outcome = watch(&child, timeout, stop, &mut lines);
    if !matches!(outcome, Ok(Outcome::Ended(_))) {
        // Before it is waited for: until then its number is not given to another.
        signal(&child, libc::SIGKILL);
    }
    let status = child.wait()?;
    lines.rest();
    Ok(match outcome? {
        Outcome::Ended(_) => Outcome::Ended(status),
        other => other,
    })
}

/// Returns when the child has ended, or has had its time. It is not waited for.
fn watch(
    child: &Child,
    timeout: Duration,
    stop: &AtomicBool,
    lines: &mut Lines<impl FnMut(&[u8])>,
) -> io::Result<Outcome> {
    let end = pidfd(child)?;
    let mut deadline = Instant::now().checked_add(timeout);
    let mut ending = None;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let over = left.is_some_and(|left| left.is_zero());
        match ending.take() {
            Some(outcome) if over => return Ok(outcome),
            Some(outcome) => ending = Some(outcome),
            None if over || stop.load(Ordering::Acquire) => {
                signal(child, libc::SIGTERM);
                deadline = Some(Instant::now() + GRACE);
                ending = Some(if over { Outcome::TimedOut } else { Outcome::Stopped });
                continue;
            }
            None => {}
        }
        let ended = poll(&end, lines.output.as_ref(), left.unwrap_or(LOOK).min(LOOK))?;
        lines.read();
        if ended {
            return Ok(ending.unwrap_or(Outcome::Ended(ExitStatus::default())));
        }
    }
}

/// A descriptor that can be read once the child has ended (Linux 5.3).
fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: it takes two numbers and gives a descriptor, or -1.
    #[allow(unsafe_code)]
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and has no other owner.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until the child has ended (`true`), or has said something, or for a
/// while.
fn poll(end: &OwnedFd, output: Option<&File>, time: Duration) -> io::Result<bool> {
    let wait = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // A negative one is passed over.
    let output = output.map_or(-1, AsRawFd::as_raw_fd);
    let mut fds = [wait(end.as_raw_fd()), wait(output)];
    let time = time.as_millis() as i32 + 1;
    // SAFETY: the array is as long as said, and lives until it returns.
    #[allow(unsafe_code)]
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, time) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok(false),
            _ => Err(error),
        };
    }
    Ok(fds[0].revents != 0)
}

/// To the child's process group, which may be gone.
fn signal(child: &Child, signal: i32) {
    // Its number, negative, is the group's: it was made its leader.
    let group = -child.id().cast_signed();
    // SAFETY: it takes two numbers; the child was not waited for, so they mean
    // what they meant.
    #[allow(unsafe_code)]
    unsafe {
        libc::kill(group, signal);
    }
}

/// Output, taken apart into lines.
struct Lines<F> {
    /// `None` at its end.
    output: Option<File>,
    part: Vec<u8>,
    tell: F,
}

impl<F: FnMut(&[u8])> Lines<F> {
    fn new(output: File, tell: F) -> Lines<F> {
        Lines { output: Some(output), part: Vec::with_capacity(LINE_MAX), tell }
    }

    /// Takes what is there, a piece of it at least; gives its length.
    fn read(&mut self) -> usize {
        let mut piece = [0; 8 << 10];
        let Some(output) = &mut self.output else {
            return 0;
        };
        let length = match output.read(&mut piece) {
            Ok(0) => {
                self.output = None;
                0
            }
            Ok(length) => length,
            // Nothing there yet, or a signal came.
            Err(_) => 0,
        };
        for &byte in &piece[..length] {
            if byte == b'\n' {
                self.end_line();
            } else {
                if self.part.len() == LINE_MAX {
                    self.end_line();
                }
                self.part.push(byte);
            }
        }
        length
    }

    fn end_line(&mut self) {
        (self.tell)(&self.part);
        self.part.clear();
    }

    /// Takes what is there still, and ends the last line.
    fn rest(&mut self) {
        let mut length = 0;
        while length < REST_MAX {
            match self.read() {
                0 => break,
                read => length += read,
            }
        }
        if !self.part.is_empty() {
            self.end_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> (Outcome, Vec<String>) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let mut lines = Vec::new();
        let tell = |line: &[u8]| lines.push(String::from_utf8_lossy(line).into_owned());
        let outcome = run(command, timeout, &AtomicBool::new(false), tell).unwrap();
        (outcome, lines)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn lines_of_both_streams() {
        let (outcome, lines) = shell("echo a; echo b >&2; printf c; exit 3", LONG);
        assert!(matches!(outcome, Outcome::Ended(status) if status.code() == Some(3)));
        assert_eq!(lines, ["a", "b", "c"]);
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let (_, lines) = shell("head -c 3000 /dev/zero | tr '\\0' x; echo; echo y", LONG);
        let lengths: Vec<_> = lines.iter().map(String::len).collect();
        assert_eq!(lengths, [1024, 1024, 952, 1]);
    }

    #[test]
    fn much_output_is_all_read() {
        let (_, lines) = shell("seq 100000", LONG);
        assert_eq!(lines.len(), 100_000);
        assert_eq!(lines.last().unwrap(), "100000");
    }

    #[test]
    fn what_is_left_in_the_background_is_not_waited_for() {
        let start = Instant::now();
        let (outcome, lines) = shell("sleep 50 & echo $!", LONG);
        assert!(start.elapsed() < Duration::from_secs(40));
        assert!(matches!(outcome, Outcome::Ended(status) if status.success()));
        let left: i32 = lines[0].parse().unwrap();
        // SAFETY: it takes two numbers.
        #[allow(unsafe_code)]
        let ended = unsafe { libc::kill(left, libc::SIGKILL) };
        assert_eq!(ended, 0, "it went on");
    }

    #[test]
    fn the_whole_group_is_ended() {
        let start = Instant::now();
        let (outcome, lines) =
            shell("trap '' TERM; sleep 50 & echo $!; wait", Duration::from_millis(300));
        assert!(matches!(outcome, Outcome::TimedOut));
        assert!(start.elapsed() < Duration::from_secs(40));
        let child = std::path::PathBuf::from(format!("/proc/{}", lines[0]));
        let gone = || match std::fs::read_to_string(child.join("stat")) {
            // Nobody may be there to wait for it.
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !gone() {
            assert!(Instant::now() < deadline, "a child outlives its hook");
            std::thread::yield_now();
        }
    }
}
