//! How the server is run: one on a folder, stopped by signals, watched through
//! its log, its metrics and its health, set up by flags and variables.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use registry::oci::Algorithm;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{REGISTRY, Registry, eventually, noise, run};
use crate::probe::{Wire, assert_sound, files, memory, outcome};

#[test]
fn one_server_a_folder() {
    let [dir, other, layers] = [(); 3].map(|()| TempDir::new().expect("a temporary folder"));
    let layers = layers.path().to_str().expect("UTF-8");
    let arguments = ["--layers", layers];
    let mut first = Registry::start_in(dir.path(), &arguments);
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    for (what, dir, arguments, names) in [
        ("the same DIR", dir.path(), &[][..], text(dir.path())),
        ("the same blobs", other.path(), &arguments, layers.to_owned()),
        (
            "the same blobs, only to read",
            other.path(),
            &["--layers", layers, "--read-only"],
            layers.to_owned(),
        ),
    ] {
        let (code, stdout, stderr) = outcome(Registry::command(dir, arguments));
        assert_eq!((code, stdout.as_str()), (1, ""), "{what}: {stderr}");
        assert!(stderr.contains(&names), "{what}: {stderr}");
        assert!(stderr.contains("in use by another server"), "{what}: {stderr}");
    }
    first.push_image("a", "v1", "the first is not disturbed");
    first.kill();
    // The lock dies with its holder.
    let second = Registry::start_in(other.path(), &arguments);
    assert_eq!(second.get("/v2/a/manifests/v1").status, 200);
}

/// Waits until a server that got a signal says that it stops.
fn wait_for_stop(registry: &Registry) {
    eventually("the server stops", || registry.log().contains("stopping"));
}

/// SIGTERM: what is under way finishes, nothing new starts, exit code 0.
#[test]
fn drain() {
    const SIZE: usize = 48 << 20;
    let temp = TempDir::new().expect("a temporary folder");
    let mut registry = Registry::start_in(temp.path(), &[]);
    let content = noise(1, SIZE);
    let digest = registry.push_blob("a", &content);
    let pushed = &content[1..];
    let pushed_digest = Algorithm::Sha256.digest(pushed);

    let mut idle = Wire::new(&registry);
    assert_eq!(idle.get("/readyz").text(), "ok\n");
    // A request whose head is on its way when the signal comes.
    let mut ready = Wire::new(&registry);
    ready.send("GET /readyz HTTP/1.1\r\nHost: localhost\r\n").expect("the registry reads");
    let mut pull = registry.connect();
    write!(pull, "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("the registry reads");
    let mut pulled = vec![0; 1 << 20];
    pull.read_exact(&mut pulled).expect("the start of an answer");
    let mut push = Wire::new(&registry);
    let path = format!("/v2/a/blobs/uploads/?digest={pushed_digest}");
    push.head("POST", &path, &format!("Content-Length: {}", pushed.len()));
    push.send(&pushed[..SIZE / 2]).expect("the registry reads");
    assert_eq!(idle.get("/healthz").status, 200);

    registry.signal("TERM");
    wait_for_stop(&registry);
    eventually("new connections are refused", || TcpStream::connect(registry.address).is_err());
    assert_eq!(idle.rest(), b"", "an idle connection is closed");
    ready.send("\r\n").expect("the registry reads");
    let reply = ready.reply().expect("an answer");
    assert_eq!((reply.status, reply.text().as_str()), (503, "stopping\n"));
    assert_eq!(ready.rest(), b"");
    push.send(&pushed[SIZE / 2..]).expect("the registry reads");
    assert_eq!(push.reply().expect("an answer").status, 201);
    pull.read_to_end(&mut pulled).expect("the rest of the answer");
    assert!(pulled.ends_with(&content), "the pull is whole");
    assert_eq!(registry.wait().code(), Some(0));
    assert!(!registry.log().contains("ran out"), "{}", registry.log());

    let registry = Registry::start_in(temp.path(), &[]);
    let reply = registry.get(&format!("/v2/a/blobs/{pushed_digest}"));
    assert!(reply.body == pushed);
}

/// Whatever its threads are doing at that moment, a server that stops says so
/// by its exit code. The index may still be busy with its start, or in use.
#[test]
fn stops_cleanly() {
    const ROUNDS: usize = 80;
    let temp = TempDir::new().expect("a temporary folder");
    for round in 0..ROUNDS {
        let mut registry = Registry::start_in(temp.path(), &["--log-level", "warn"]);
        if round % 2 == 0 {
            assert_eq!(registry.get("/v2/_catalog").status, 200);
        }
        registry.signal("TERM");
        let status = registry.wait();
        let log = registry.log();
        assert_eq!(status.code(), Some(0), "round {round}: {status}: {log}");
        assert_eq!(log, "", "round {round}");
    }
}

/// A log that nobody reads holds up neither requests nor the stop.
#[test]
fn stops_with_a_full_pipe_for_its_log() {
    let temp = TempDir::new().expect("a temporary folder");
    let pipe = temp.path().join("pipe");
    run(Command::new("mkfifo").arg(&pipe));
    let serve = Registry::command(temp.path(), &["--log", "json"]);
    let mut command = Command::new("sh");
    // Opened to read as well, so that it has a reader: one that never reads.
    command.args(["-c", r#"exec "$@" 2<>"$0""#]).arg(&pipe);
    command.arg(serve.get_program()).args(serve.get_args());
    let mut registry = Registry::spawn(temp.path(), command);
    let mut filler = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&pipe)
        .expect("the pipe");
    for piece in [&[b'\n'; 4096][..], b"\n"] {
        let full = loop {
            if let Err(e) = filler.write_all(piece) {
                break e;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
    }
    let mut wire = Wire::new(&registry);
    for _ in 0..1000 {
        assert_eq!(wire.get("/v2/").status, 200);
    }
    drop(wire);
    let start = Instant::now();
    registry.signal("TERM");
    assert_eq!(registry.wait().code(), Some(0));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// A push that has stopped coming, held open.
fn stall(registry: &Registry) -> Wire {
    let location = registry.start_upload("a");
    let mut wire = Wire::new(registry);
    wire.head("PATCH", &location, "Content-Length: 1000");
    wire.send("x").expect("the registry reads");
    eventually("the server reads the push", || {
        let data = files(&registry.store().join("repositories/a/_uploads"));
        data.iter().any(|path| {
            path.ends_with("data") && fs::metadata(path).is_ok_and(|data| data.len() == 1)
        })
    });
    wire
}

#[test]
fn drain_timeout() {
    let mut registry = Registry::start(&["--drain-timeout", "1s"]);
    let mut stalled = stall(&registry);
    let start = Instant::now();
    registry.signal("TERM");
    assert_eq!(registry.wait().code(), Some(0));
    let took = start.elapsed();
    assert!((1..5).contains(&took.as_secs()), "{took:?}");
    eventually("the log says so", || registry.log().contains("--drain-timeout ran out"));
    stalled.rest();
}

#[test]
fn second_signal() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("INT", "TERM")] {
        let mut registry = Registry::start(&[]);
        let _stalled = stall(&registry);
        registry.signal(first);
        wait_for_stop(&registry);
        let start = Instant::now();
        registry.signal(second);
        assert_eq!(registry.wait().code(), Some(1), "{first}, {second}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn health() {
    let registry = Registry::start(&[]);
    for path in ["/healthz", "/readyz"] {
        let reply = registry.get(path);
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok\n"));
        assert_eq!(registry.head(path).status, 200);
        let reply = registry.delete(path);
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD")));
    }
}

/// One sample of the text form: its name with its labels, and its value.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            assert!(comment.starts_with("HELP ") || comment.starts_with("TYPE "), "{line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let value = value.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
        assert_eq!(samples.insert(name, value), None, "{name} comes twice");
    }
    samples
}

/// Metrics are where they were asked for and nowhere else, and count.
#[test]
fn metrics() {
    let registry = Registry::start(&["--metrics-listen", "127.0.0.1:0"]);
    let url = registry.ready.split("metrics on http://").nth(1);
    let address = url.and_then(|url| url.split('/').next()).expect("in the ready line");
    let address: SocketAddr = address.parse().expect("an address");
    assert_ne!(address, registry.address);
    let get = |address: SocketAddr, path: &str| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        crate::common::Reply::parse(&bytes).expect("an answer")
    };
    assert_eq!(get(registry.address, "/metrics").status, 404);
    assert_eq!(get(address, "/v2/").status, 404);
    let plain = Registry::start(&[]);
    assert!(!plain.ready.contains("metrics"), "{}", plain.ready);

    let content = noise(1, 200_000);
    let digest = registry.push_blob("a", &content);
    let blob = format!("/v2/a/blobs/{digest}");
    for _ in 0..3 {
        assert_eq!(registry.get("/v2/").status, 200);
        assert_eq!(registry.get(&blob).status, 200);
    }
    assert_eq!(registry.get("/v2/a/manifests/none").status, 404);
    assert_eq!(registry.send("BREW", "/v2/", &[], b"").status, 405);
    let _open = Wire::new(&registry).get("/v2/");

    let reply = get(address, "/metrics");
    assert_eq!(reply.status, 200);
    let media_type = reply.header("content-type").expect("a type");
    assert!(media_type.starts_with("text/plain; version=0.0.4"), "{media_type}");
    let text = reply.text();
    let samples = samples(&text);
    let requests = |route: &str, method: &str, status: u16| {
        let mut sum = 0.0;
        for (name, value) in &samples {
            let label = |key: &str, value: &str| name.contains(&format!("{key}=\"{value}\""));
            if name.starts_with("registry_http_requests_total{")
                && label("route", route)
                && label("method", method)
                && label("status", &status.to_string())
            {
                sum += value;
            }
        }
        sum
    };
    for (route, method, status, want) in [
        ("ping", "GET", 200, 4.0),
        ("blob", "GET", 200, 3.0),
        ("upload", "POST", 201, 1.0),
        ("manifest", "GET", 404, 1.0),
        ("ping", "other", 405, 1.0),
        ("unknown", "GET", 404, 1.0),
    ] {
        assert_eq!(requests(route, method, status), want, "{route} {method} {status}: {text}");
    }
    let bytes = content.len() as f64;
    assert_eq!(samples.get("registry_upload_bytes_total"), Some(&bytes), "{text}");
    assert_eq!(samples.get("registry_blob_bytes_total"), Some(&(3.0 * bytes)), "{text}");
    assert!(samples.contains_key("registry_http_connections"), "{text}");
    assert!(text.contains("# TYPE registry_http_requests_total counter\n"), "{text}");
    assert!(samples.contains_key("registry_http_request_seconds_count{route=\"blob\"}"), "{text}");
}

/// One line of the access log, its values as they stand there.
type Line = BTreeMap<String, String>;

fn text_line(line: &str) -> Line {
    let (_, mut rest) = line.split_once(" request ").expect("a request's line");
    let mut fields = Line::new();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=').expect("key=value");
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').expect("a closing quote"),
            None => value.split_once(' ').unwrap_or((value, "")),
        };
        fields.insert(key.to_owned(), value.to_owned());
        rest = after.trim_start();
    }
    fields
}

fn json_line(line: &str) -> Line {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let fields = value.as_object().expect("an object").iter();
    fields
        .map(|(key, value)| match value {
            Value::String(text) => (key.clone(), text.clone()),
            other => (key.clone(), other.to_string()),
        })
        .collect()
}

/// One line a request, with what happened, safe to read on a terminal.
#[test]
fn access_log() {
    type Form = (&'static str, fn(&str) -> Line, fn(&str) -> String);
    // What a field shows of bytes that are escaped.
    let shown_in_text: fn(&str) -> String = |s| s.to_owned();
    let shown_in_json: fn(&str) -> String =
        |s| serde_json::from_str(&format!("\"{s}\"")).expect("the escapes are JSON's");
    let forms: [Form; 2] = [("text", text_line, shown_in_text), ("json", json_line, shown_in_json)];
    for (form, parse, shown) in forms {
        let registry = Registry::start(&["--log", form]);
        let content = noise(1, 150_000);
        let digest = Algorithm::Sha256.digest(&content);
        let push = format!("/v2/a/blobs/uploads/?digest={digest}");
        let blob = format!("/v2/a/blobs/{digest}");
        let mut wire = Wire::new(&registry);
        let client = wire.stream().local_addr().expect("an address").to_string();
        let mut ids = Vec::new();
        let requests = [
            ("POST", push.as_str(), "docker/28", &content[..], 201, 0),
            ("GET", &blob, "", b"", 200, content.len()),
            ("GET", "/v2/", r#"a"b\c"#, b"", 200, 2),
            ("GET", "/v2/?q=%0a%1b[2J", "tab\there", b"", 200, 2),
            ("GET", "/v2/\"", "-", b"", 404, usize::MAX),
            ("GET", "/healthz", "\u{e9}", b"", 200, 3),
            ("PUT", "/v2/a/manifests/v1", "-", b"{", 400, usize::MAX),
        ];
        for (method, path, agent, body, status, _) in requests {
            let length = body.len();
            wire.head(method, path, &format!("User-Agent: {agent}\r\nContent-Length: {length}"));
            wire.send(body).expect("the registry reads");
            let reply = wire.reply().expect("an answer");
            assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
            ids.push((reply.header("x-request-id").expect("an id").to_owned(), reply.body.len()));
        }
        drop(registry.head(&blob));

        let mut lines = Vec::new();
        eventually("all requests are in the log", || {
            let log = registry.log();
            lines = log.lines().filter(|l| l.contains("user_agent")).map(str::to_owned).collect();
            lines.len() == requests.len() + 1
        });
        for byte in registry.log().bytes() {
            assert!(byte == b'\n' || (0x20..0x7f).contains(&byte), "{byte} in the log");
        }
        for ((line, (method, path, agent, _, status, bytes)), (id, answered)) in
            lines.iter().map(|line| parse(line)).zip(requests).zip(&ids)
        {
            let agent = shown(match agent {
                r#"a"b\c"# => r"a\u0022b\u005cc",
                "tab\there" => r"tab\u0009here",
                "\u{e9}" => r"\u00c3\u00a9",
                plain => plain,
            });
            let path = shown(&path.replace('"', r"\u0022"));
            // Of a refusal, whatever its text is.
            let bytes = if bytes == usize::MAX { *answered } else { bytes };
            for (key, want) in [
                ("id", id.clone()),
                ("client", client.clone()),
                ("method", method.to_owned()),
                ("path", path),
                ("status", status.to_string()),
                ("bytes", bytes.to_string()),
                ("user_agent", agent),
            ] {
                assert_eq!(line.get(key), Some(&want), "{key} in {line:?}");
            }
            let ms: f64 = line["ms"].parse().expect("a number");
            assert!((0.0..10_000.0).contains(&ms), "{line:?}");
        }
        let head = parse(lines.last().expect("of HEAD"));
        assert_eq!((head["method"].as_str(), head["bytes"].as_str()), ("HEAD", "0"));
        if form == "json" {
            // Every line, not only requests'.
            registry.signal("HUP");
            eventually("a line that is no request's", || registry.log().contains("reload"));
            registry.log().lines().for_each(|line| drop(json_line(line)));
            let ready = json_line(&registry.ready);
            assert_eq!(ready["message"], "ready");
        }
    }
}

/// A download that breaks off counts what was sent, give or take what was on
/// its way: the kernel's buffers, and the piece being sent.
#[test]
fn bytes_of_a_broken_download() {
    const SIZE: usize = 96 << 20;
    const READ: usize = 5 << 20;
    const ON_ITS_WAY: usize = 24 << 20;
    let registry = Registry::start(&[]);
    let digest = registry.push_blob("a", &noise(1, SIZE));
    let mut stream = registry.connect();
    let path = format!("/v2/a/blobs/{digest}");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("the registry reads");
    stream.read_exact(&mut vec![0; READ]).expect("the start of an answer");
    drop(stream);
    let mut bytes = 0;
    eventually("the download is in the log", || {
        let log = registry.log();
        let line = log.lines().find(|l| l.contains("method=GET") && l.contains(&path));
        line.is_some_and(|line| {
            bytes = text_line(line)["bytes"].parse().expect("a number");
            true
        })
    });
    assert!((READ - 1000..READ + ON_ITS_WAY).contains(&bytes), "{bytes}");
}

#[test]
fn quiet_log() {
    let registry = Registry::start(&["--log-level", "warn"]);
    assert_eq!(registry.get("/v2/").status, 200);
    registry.push_image("a", "v1", "quiet");
    assert_eq!(registry.get("/v2/a/manifests/v2").status, 404);
    let log = registry.log();
    assert!(!log.contains("/v2/"), "{log}");
}

/// Where it listens, where data lies, in how many ms it started.
#[test]
fn ready_line() {
    for form in ["text", "json"] {
        let temp = TempDir::new().expect("a temporary folder");
        let dir = fs::canonicalize(temp.path()).expect("a folder");
        let registry = Registry::start_in(temp.path(), &["--log", form, "--listen", "127.0.0.2:0"]);
        let [layers, db] = ["layers", "db"].map(|part| dir.join(part).display().to_string());
        let url = format!("http://{}", registry.address);
        assert_ne!(registry.address.port(), 0);
        if form == "json" {
            let ready: Value = serde_json::from_str(&registry.ready).expect("JSON");
            let listen = ready["listen"].as_array().expect("addresses");
            assert_eq!(listen.len(), 2, "{ready}");
            assert!(listen.contains(&Value::from(url)), "{ready}");
            assert_eq!((&ready["layers"], &ready["db"]), (&layers.into(), &db.into()));
            assert!(ready["ms"].as_f64().is_some_and(|ms| ms > 0.0 && ms < 10_000.0), "{ready}");
        } else {
            for part in [&url, "http://127.0.0.2:", &layers, &db, " ms"] {
                assert!(registry.ready.contains(part), "{part} in {}", registry.ready);
            }
        }
        assert!(registry.ready.ends_with('\n'));
    }
}

fn serve() -> Command {
    let mut command = Command::new(REGISTRY);
    command.arg("serve");
    command
}

/// The flags of `registry serve --help` and the variables beside them.
fn flags() -> BTreeMap<String, (Option<String>, String)> {
    let (code, help, _) = outcome({
        let mut command = serve();
        command.arg("--help");
        command
    });
    assert_eq!(code, 0);
    let options = help.split("\nOptions:\n").nth(1).expect("a list of options");
    let mut flags = BTreeMap::new();
    let mut current = String::new();
    for line in options.lines().map(str::trim) {
        // A dash and a blank begin a value that the flag before may have.
        // A text may go on with the name of another flag.
        let flag = line.starts_with('-')
            && !line.starts_with("- ")
            && line.split_whitespace().all(|word| word.starts_with(['-', '<', '[']));
        let named = flag.then(|| {
            let long = line.split("--").nth(1).expect("a long name");
            long.split([' ', ',']).next().expect("a name").to_owned()
        });
        if let Some(name) = named {
            flags.insert(name.clone(), (None, String::new()));
            current = name;
            continue;
        }
        let (variable, text) = flags.get_mut(&current).expect("a flag comes first");
        match line.strip_prefix("[env: ") {
            Some(env) => *variable = env.split(['=', ']']).next().map(str::to_owned),
            None => text.push_str(line),
        }
    }
    flags
}

#[test]
fn help() {
    let flags = flags();
    for flag in [
        "dir",
        "layers",
        "listen",
        "port",
        "tls-cert",
        "tls-key",
        "read-only",
        "log",
        "log-level",
        "metrics-listen",
        "upload-ttl",
        "drain-timeout",
        "header-timeout",
        "idle-timeout",
        "max-connections",
        "host",
        "cors-origin",
    ] {
        assert!(flags.contains_key(flag), "--{flag}");
    }
    for (flag, (variable, text)) in &flags {
        assert!(text.len() > 9, "--{flag} says nothing: {text:?}");
        if flag == "user" {
            // A list, where the flag is one of it.
            assert!(text.contains("REGISTRY_USERS"), "{text}");
        } else if flag != "help" {
            let want = format!("REGISTRY_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(variable.as_ref(), Some(&want), "--{flag}");
        }
    }
    for (arguments, says) in [
        (&["--help"][..], "serve"),
        (&["help", "serve"], "--dir"),
        (&["--version"], "registry "),
        (&["serve", "--help"], "SIGTERM"),
        (&["serve", "--help"], "Exit codes"),
        (&["serve", "--help"], "PORT"),
    ] {
        let mut command = Command::new(REGISTRY);
        command.args(arguments);
        let (code, stdout, stderr) = outcome(command);
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(stdout.contains(says), "{arguments:?}: {stdout}");
    }
}

/// Every variable is read: a value that means nothing stops the start, and the
/// message names the setting.
#[test]
fn variables_are_checked() {
    let temp = TempDir::new().expect("a temporary folder");
    for (flag, (variable, _)) in flags() {
        let Some(variable) = variable else {
            assert!(["help", "user"].contains(&flag.as_str()), "--{flag}");
            continue;
        };
        if flag.starts_with("on-") {
            // Every text is a script.
            continue;
        }
        let value = match flag.as_str() {
            // Below a file there is no folder.
            "dir" => "/dev/null/x",
            _ => "/no such/value",
        };
        let mut command = serve();
        command.current_dir(&temp).args(["--port", "0"]);
        if flag == "port" {
            command = serve();
            command.current_dir(&temp);
        }
        let (code, stdout, stderr) = outcome({
            command.env(&variable, value);
            command
        });
        assert!(matches!(code, 1 | 2), "{variable}: {code}");
        assert_eq!(stdout, "", "{variable}");
        assert!(stderr.contains(&format!("--{flag}")), "{variable}: {stderr}");
        assert_eq!(files(temp.path()), <[std::path::PathBuf; 0]>::default(), "{variable}");
    }
}

#[test]
fn variables_are_used() {
    let [dir, layers] = [(); 2].map(|()| TempDir::new().expect("a temporary folder"));
    drop(Registry::start(&["--layers", layers.path().to_str().expect("UTF-8")]));
    let mut command = serve();
    command
        .env("REGISTRY_DIR", dir.path())
        .env("REGISTRY_LAYERS", layers.path())
        .env("REGISTRY_PORT", "0,0")
        .env("REGISTRY_READ_ONLY", "yes")
        .env("REGISTRY_LOG", "json")
        .env("REGISTRY_LOG_LEVEL", "error")
        .env("REGISTRY_METRICS_LISTEN", "127.0.0.1:0");
    let registry = Registry::spawn(dir.path(), command);
    let ready: Value = serde_json::from_str(&registry.ready).expect("JSON");
    let canonical = |path: &Path| fs::canonicalize(path).expect("a folder");
    assert_eq!(ready["layers"], canonical(layers.path()).to_str().expect("UTF-8"));
    assert_eq!(ready["db"], canonical(dir.path()).join("db").to_str().expect("UTF-8"));
    assert_eq!(ready["listen"].as_array().map(Vec::len), Some(2));
    assert_eq!(ready["read_only"], true);
    assert!(ready["metrics"].is_string(), "{ready}");
    assert_eq!(registry.send("POST", "/v2/a/blobs/uploads/", &[], b"").status, 405);
    assert_eq!(registry.log(), "");

    // The flag wins, and PORT serves when nothing else says where to listen.
    let mut command = serve();
    command.arg("--dir").arg(dir.path()).args(["--log", "text"]);
    command.env("REGISTRY_DIR", "/dev/null/x").env("REGISTRY_LOG", "json");
    command.env("REGISTRY_READ_ONLY", "false").env("PORT", "0");
    drop(registry);
    let registry = Registry::spawn(dir.path(), command);
    assert!(registry.ready.starts_with("registry "), "{}", registry.ready);
    assert_ne!(registry.address.port(), 8000);
    assert_eq!(registry.send("POST", "/v2/a/blobs/uploads/", &[], b"").status, 202);
}

/// Variables by which Docker and Kubernetes tell of a service or a linked
/// container called `registry` are no settings, `REGISTRY_PORT` included.
#[test]
fn service_links() {
    let temp = TempDir::new().expect("a temporary folder");
    let mut command = serve();
    command.arg("--dir").arg(temp.path()).envs([
        ("REGISTRY_PORT", "tcp://10.0.0.1:5000"),
        ("REGISTRY_NAME", "/app/registry"),
        ("REGISTRY_SERVICE_HOST", "10.0.0.1"),
        ("REGISTRY_SERVICE_PORT", "5000"),
        ("REGISTRY_SERVICE_PORT_HTTP", "5000"),
        ("REGISTRY_PORT_5000_TCP", "tcp://10.0.0.1:5000"),
        ("REGISTRY_PORT_5000_TCP_ADDR", "10.0.0.1"),
        ("REGISTRY_PORT_5000_TCP_PORT", "5000"),
        ("REGISTRY_PORT_5000_TCP_PROTO", "tcp"),
        // The default port may be taken; this serves only where REGISTRY_PORT
        // says nothing.
        ("PORT", "0"),
    ]);
    let registry = Registry::spawn(temp.path(), command);
    assert!(registry.address.ip().is_loopback(), "{}", registry.ready);
    assert_eq!(registry.get("/v2/").status, 200);
}

/// Settings that contradict each other or mean nothing stop the start.
#[test]
fn settings_that_stop_the_start() {
    let temp = TempDir::new().expect("a temporary folder");
    let taken = Registry::start(&[]);
    let taken = taken.address.to_string();
    let file = temp.path().join("file");
    fs::write(&file, "no certificate").expect("a file");
    let file = file.to_str().expect("UTF-8");
    for (arguments, variables, code, names) in [
        (&["--nonsense"][..], &[][..], 2, "--nonsense"),
        (&["extra"], &[], 2, "extra"),
        (&["--log", "xml"], &[], 2, "--log"),
        (&["--log-level", "loud"], &[], 2, "--log-level"),
        (&["--listen", "localhost"], &[], 2, "--listen"),
        (&["--port", "65536"], &[], 2, "--port"),
        (&["--idle-timeout", "5"], &[], 2, "--idle-timeout"),
        (&["--header-timeout=-5s"], &[], 2, "--header-timeout"),
        (&["--drain-timeout", "0s"], &[], 2, "--drain-timeout"),
        (&["--upload-ttl", "soon"], &[], 2, "--upload-ttl"),
        (&["--max-connections", "0"], &[], 2, "--max-connections"),
        (&["--dir"], &[], 2, "--dir"),
        (&["--dir", "a", "--dir", "b"], &[], 2, "--dir"),
        (&["--tls-cert", file], &[], 1, "--tls-key"),
        (&["--tls-key", file], &[], 1, "--tls-cert"),
        (&["--tls-cert", file, "--tls-key", file], &[], 1, file),
        (&["--tls-cert", "/none", "--tls-key", "/none"], &[], 1, "/none"),
        (&["--layers", "/none"], &[], 1, "/none"),
        (&["--listen", "127.0.0.1:9", "--port", "9"], &[], 1, "127.0.0.1:9"),
        (
            &["--listen", "127.0.0.1:9", "--metrics-listen", "127.0.0.1:9"],
            &[],
            1,
            "--metrics-listen",
        ),
        (&["--listen", &taken], &[], 1, &taken),
        (&["--metrics-listen", &taken], &[], 1, &taken),
        (&[], &[("REGISTRY_NONSENSE", "1")], 1, "REGISTRY_NONSENSE"),
        (&[], &[("REGISTRY_READ_ONLY", "perhaps")], 2, "--read-only"),
        // Neither a port nor the address of a linked service.
        (&[], &[("REGISTRY_PORT", "abc")], 2, "--port"),
        (&["--port", "0"], &[("PORT", "http")], 1, "PORT"),
    ] {
        let mut command = serve();
        command.current_dir(&temp).args(arguments);
        command.envs(variables.iter().copied());
        let (exit, stdout, stderr) = outcome(command);
        assert_eq!((exit, stdout.as_str()), (code, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(names), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    let (code, _, stderr) = outcome(Command::new(REGISTRY));
    assert_eq!(code, 2, "{stderr}");
}

/// An upload that nothing was written to for `--upload-ttl` goes; one that is
/// being written to, however slowly, stays.
#[test]
fn abandoned_uploads() {
    let registry = Registry::start(&["--upload-ttl", "1s"]);
    let [abandoned, never_begun, slow] = [(); 3].map(|()| registry.start_upload("a"));
    let reply = registry.send("PATCH", &abandoned, &[], b"abandoned");
    assert_eq!(reply.status, 202);
    let content = noise(1, 1000);
    let mut wire = Wire::new(&registry);
    wire.head("PATCH", &slow, &format!("Content-Length: {}", content.len()));
    let mut pieces = content.chunks(4);
    eventually("abandoned uploads are gone", || {
        wire.send(pieces.next().expect("enough for a while")).expect("the registry reads");
        [&abandoned, &never_begun].iter().all(|path| registry.get(path).status == 404)
    });
    let uploads = registry.store().join("repositories/a/_uploads");
    assert_eq!(files(&uploads).len(), 2, "the other's data and its start");
    let rest: Vec<u8> = pieces.flatten().copied().collect();
    wire.send(rest).expect("the registry reads");
    assert_eq!(wire.reply().expect("an answer").status, 202);
    let digest = Algorithm::Sha256.digest(&content);
    let reply = registry.send("PUT", &format!("{slow}?digest={digest}"), &[], b"");
    assert_eq!(reply.status, 201);
    assert_sound(&registry);
}

/// A large blob costs the memory of a small one, in and out.
#[test]
fn memory_does_not_follow_size() {
    const PIECE: usize = 1 << 20;
    /// KiB: which buffers happened to be full at the same time.
    const SLACK: u64 = 6 << 10;
    let peak = |pieces: usize| {
        let registry = Registry::start(&[]);
        let location = registry.start_upload("a");
        let mut wire = Wire::new(&registry);
        wire.head("PATCH", &location, &format!("Content-Length: {}", pieces * PIECE));
        let mut piece = noise(1, PIECE);
        let mut hasher = Algorithm::Sha256.hasher();
        for i in 0..pieces {
            // No two alike.
            piece[..8].copy_from_slice(&i.to_le_bytes());
            hasher.update(&piece);
            wire.send(&piece).expect("the registry reads");
        }
        assert_eq!(wire.reply().expect("an answer").status, 202);
        let digest = hasher.finish();
        let reply = registry.send("PUT", &format!("{location}?digest={digest}"), &[], b"");
        assert_eq!(reply.status, 201, "{}", reply.text());
        memory(&registry, "VmHWM")
    };
    let (small, large) = (peak(10), peak(1024));
    assert!(large < small + SLACK, "{small} KiB for 10 MiB, {large} KiB for 1 GiB");
}
