//! Hooks: the operator's scripts, run when something happens, as the npm server
//! ran its own: `/bin/bash -c SCRIPT EVENT ARGUMENTS…`, or the file `EVENT` of a
//! folder with the arguments. What clients choose is an argument or a variable,
//! never part of a command.
//!
//! Events wait in one queue of bounded length. Those of a repository run one
//! after the other, in their order; those of others beside them.

mod process;

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use nix::sys::stat::{Mode, umask};

use crate::events::{Event, Kind};
use crate::metrics;
use process::Outcome;

/// What `--on-…` is given to, as by the npm server.
const SHELL: &str = "/bin/bash";
/// Events that wait for a hook.
const QUEUE_MAX: usize = 10_000;
/// Of one run's output, the lines that are logged.
const LINES_MAX: usize = 1000;

#[derive(Clone, Debug)]
pub struct Options {
    /// Scripts for the shell.
    pub scripts: Vec<(Kind, OsString)>,
    /// Holds executable files named like events.
    pub folder: Option<PathBuf>,
    /// Hooks at a time.
    pub jobs: usize,
    pub timeout: Duration,
    /// Where the registry is, for the commands that look into it.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// The umask of hooks. The server's own is stricter than the one that it was started with.
    pub umask: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Script {
    Shell(OsString),
    File(PathBuf),
}

#[derive(Debug)]
pub struct Hooks {
    scripts: HashMap<Kind, Script>,
    timeout: Duration,
    environment: Vec<(&'static str, PathBuf)>,
    umask: u32,
    queue: Mutex<Queue>,
    /// There is something to run, or nothing runs any more.
    changed: Condvar,
    /// Hooks that run are to be ended.
    ending: AtomicBool,
}

/// Events that are told in their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Chain(String);

impl Chain {
    fn of(event: &Event) -> Chain {
        // An id has no slash before it.
        Chain(match &event.repository {
            Some(repository) => format!("/{repository}"),
            None => event.id.clone(),
        })
    }
}

#[derive(Debug, Default)]
struct Queue {
    /// Those with an event that waits or runs.
    chains: HashMap<Chain, VecDeque<Arc<Event>>>,
    /// Those of which one waits and none runs.
    ready: VecDeque<Chain>,
    waiting: usize,
    running: usize,
    /// Events dropped since the last that was not.
    dropped: u64,
    closed: bool,
}

impl Hooks {
    /// Starts the threads that run hooks; none where there are no hooks.
    pub fn start(options: &Options) -> io::Result<Option<Arc<Hooks>>> {
        let mut scripts = HashMap::new();
        for kind in Kind::ALL {
            let given = options.scripts.iter().find(|(given, _)| *given == kind);
            let script = match (given, &options.folder) {
                (Some((_, script)), _) => {
                    fs::metadata(SHELL)
                        .map_err(|e| io::Error::new(e.kind(), format!("{SHELL}: {e}")))?;
                    Some(Script::Shell(script.clone()))
                }
                (None, Some(folder)) => file(folder, kind)?,
                (None, None) => None,
            };
            if let Some(script) = script {
                tracing::info!(event = kind.name(), ?script, "a hook");
                scripts.insert(kind, script);
            }
        }
        if scripts.is_empty() {
            return Ok(None);
        }
        let hooks = Arc::new(Hooks {
            scripts,
            timeout: options.timeout,
            environment: options.environment.clone(),
            umask: options.umask,
            queue: Mutex::default(),
            changed: Condvar::new(),
            ending: AtomicBool::new(false),
        });
        for number in 0..options.jobs {
            let hooks = Arc::clone(&hooks);
            thread::Builder::new().name(format!("hook-{number}")).spawn(move || hooks.work())?;
        }
        Ok(Some(hooks))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No invariant is broken half way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the event's hook run, if it has one and there is room. Never waits.
    pub fn hear(&self, event: &Arc<Event>) {
        if !self.scripts.contains_key(&event.kind) {
            return;
        }
        let mut queue = self.queue();
        if queue.closed || queue.waiting >= QUEUE_MAX {
            metrics::hook(event.kind.name(), "dropped");
            if queue.dropped == 0 {
                tracing::warn!(
                    event = event.kind.name(),
                    id = event.id,
                    "hooks are too slow: events are passed over"
                );
            }
            queue.dropped += 1;
            return;
        }
        if queue.dropped > 0 {
            tracing::warn!(events = queue.dropped, "so many were passed over by hooks");
            queue.dropped = 0;
        }
        let chain = Chain::of(event);
        queue.waiting += 1;
        match queue.chains.get_mut(&chain) {
            Some(events) => events.push_back(Arc::clone(event)),
            None => {
                let events = VecDeque::from([Arc::clone(event)]);
                queue.chains.insert(chain.clone(), events);
                queue.ready.push_back(chain);
                self.changed.notify_all();
            }
        }
    }

    /// Lets hooks go on for `time`, then ends them; for the end of the program.
    pub fn stop(&self, time: Duration) {
        let deadline = Instant::now() + time;
        let mut queue = self.queue();
        while queue.waiting + queue.running > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.closed = true;
        let left = queue.waiting;
        if left > 0 {
            tracing::warn!(events = left, "stopped before the hooks of all events ran");
        }
        for (_, events) in queue.chains.drain() {
            for event in events {
                metrics::hook(event.kind.name(), "dropped");
            }
        }
        queue.ready.clear();
        queue.waiting = 0;
        self.ending.store(true, Ordering::Release);
        while queue.running > 0 {
            let waited = self.changed.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        loop {
            let mut queue = self.queue();
            let (chain, event) = loop {
                if let Some(chain) = queue.ready.pop_front() {
                    let events = queue.chains.get_mut(&chain);
                    if let Some(event) = events.and_then(VecDeque::pop_front) {
                        break (chain, event);
                    }
                } else {
                    let waited = self.changed.wait(queue);
                    queue = waited.unwrap_or_else(PoisonError::into_inner);
                }
            };
            queue.waiting -= 1;
            queue.running += 1;
            drop(queue);
            self.run(&event);
            let mut queue = self.queue();
            queue.running -= 1;
            match queue.chains.get(&chain) {
                Some(events) if events.is_empty() => drop(queue.chains.remove(&chain)),
                Some(_) => queue.ready.push_back(chain),
                None => {}
            }
            self.changed.notify_all();
        }
    }

    /// Runs one hook to its end.
    fn run(&self, event: &Event) {
        let Some(script) = self.scripts.get(&event.kind) else {
            return;
        };
        let (kind, id) = (event.kind.name(), event.id.get(..12).unwrap_or(&event.id));
        let mut lines = 0;
        let log = |line: &[u8]| {
            lines += 1;
            if lines <= LINES_MAX {
                tracing::info!("hook {kind} {id}: {}", printable(line));
            } else if lines == LINES_MAX + 1 {
                tracing::warn!("hook {kind} {id} says too much: the rest is not logged");
            }
        };
        let mut command = command(script, event);
        set_umask(&mut command, self.umask);
        command.envs(self.environment.iter().map(|(name, path)| (name, path)));
        let outcome = process::run(command, self.timeout, &self.ending, log);
        let result = match outcome {
            Ok(Outcome::Ended(status)) if status.success() => {
                tracing::debug!("hook {kind} {id} is done");
                "ok"
            }
            Ok(Outcome::Ended(status)) => {
                tracing::warn!("hook {kind} {id} failed: {status}");
                "failed"
            }
            Ok(Outcome::TimedOut) => {
                tracing::warn!("hook {kind} {id} was ended: it took longer than --hook-timeout");
                "timeout"
            }
            Ok(Outcome::Stopped) => {
                tracing::warn!("hook {kind} {id} was ended: the server is stopping");
                "failed"
            }
            Err(error) => {
                tracing::error!(%error, "hook {kind} {id} cannot be run");
                "failed"
            }
        };
        metrics::hook(kind, result);
    }
}

/// Refuses a hook, or a folder of hooks, that other users can change: they could run commands as
/// the server.
fn check_owner(path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    let ours = [0, nix::unistd::geteuid().as_raw()].contains(&metadata.uid());
    if ours && metadata.permissions().mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!(
            "{} can be changed by other users: make it the server's own, without write permission for group and others",
            path.display()
        ),
    ))
}

/// The hook that a folder has for an event.
fn file(folder: &Path, kind: Kind) -> io::Result<Option<Script>> {
    let path = folder.join(kind.name());
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
    };
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        tracing::warn!(path = %path.display(), "no hook: it is not an executable file");
        return Ok(None);
    }
    check_owner(folder, &fs::metadata(folder)?)?;
    check_owner(&path, &metadata)?;
    // A path with a slash, or the shell's PATH would be searched.
    Ok(Some(Script::File(fs::canonicalize(path)?)))
}

fn command(script: &Script, event: &Event) -> Command {
    let kind = event.kind.name();
    let mut command = match script {
        Script::Shell(script) => {
            let mut command = Command::new(SHELL);
            // `$0`, so that `$1` is the first argument.
            command.arg("-c").arg(script).arg(kind);
            command
        }
        Script::File(path) => Command::new(path),
    };
    let full_tag = event.full_tag();
    command.arg(&event.id);
    if matches!(event.kind, Kind::Tag | Kind::Untag) {
        command.args(&full_tag);
    }
    // Some of the server's own settings are secrets.
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"REGISTRY_") {
            command.env_remove(name);
        }
    }
    let user = event.cause.user.as_deref().unwrap_or_default();
    let repository = event.repository.as_ref();
    for (name, value) in [
        ("EVENT", kind.to_owned()),
        ("ID", event.id.clone()),
        ("TAG", full_tag.unwrap_or_default()),
        ("REPOSITORY", repository.map(ToString::to_string).unwrap_or_default()),
        ("DIGEST", event.digest.map(|d| d.to_string()).unwrap_or_default()),
        // The system's strings end at a NUL.
        ("USER", user.replace('\0', "\u{fffd}")),
        ("ADDRESS", event.cause.address.map(|a| a.ip.to_string()).unwrap_or_default()),
    ] {
        command.env(format!("REGISTRY_{name}"), value);
    }
    command
}

/// Gives a command a umask of its own.
fn set_umask(command: &mut Command, mask: u32) {
    let set = move || {
        umask(Mode::from_bits_truncate(mask));
        Ok(())
    };
    // SAFETY: between fork and exec, `umask` is a system call that allocates and locks nothing.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(set);
    }
}

/// A script's line as text that neither ends the log's line nor speaks to a
/// terminal.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_harmless() {
        for (line, want) in [
            (&b"it's \"done\" \\o/"[..], "it's \"done\" \\o/"),
            ("déployé ✓".as_bytes(), "déployé ✓"),
            (b"\x1b[31mred\r\x00\xff", r"\u{1b}[31mred\r\0�"),
            ("\u{202e}".as_bytes(), r"\u{202e}"),
        ] {
            assert_eq!(printable(line), want);
        }
    }
}
