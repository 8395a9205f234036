//! Passwords: who gets in, what it costs, what is logged.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{REGISTRY, Registry, Reply, eventually};
use crate::support::{basic, folder, get_as, htpasswd_line, path, send_as, start, user};

fn ping(registry: &Registry, authorization: &str) -> Reply {
    get_as(registry, Some(authorization), "/v2/")
}

#[test]
fn who_gets_in() {
    let dir = folder();
    let more = ["--user", "flag:with, comma", "--user", "long:é"];
    let registry = start(dir.path(), &more);
    for (authorization, why) in [
        (user("owner"), "of the file"),
        (basic("flag", "with, comma"), "of a flag"),
        (basic("long", "é"), "not ASCII"),
        (user("owner").replace("Basic ", "bAsIc  "), "schemes have no case"),
    ] {
        assert_eq!(ping(&registry, &authorization).status, 200, "{why}");
    }
    for (authorization, why) in [
        (basic("owner", "wrong"), "another password"),
        (basic("nobody", "wrong"), "no such user"),
        (basic("", ""), "neither"),
        ("Basic b3duZXI=".to_owned(), "no colon"),
        ("Basic ///".to_owned(), "not base64"),
        ("Basic /////w==".to_owned(), "not UTF-8"),
        ("Basic".to_owned(), "nothing"),
        ("Token signature=x,repository=\"a\",access=write".to_owned(), "a forged token"),
        (format!("Basic {}", "A".repeat(20_000)), "too long"),
    ] {
        let reply = ping(&registry, &authorization);
        assert_eq!((reply.status, reply.code().as_str()), (401, "UNAUTHORIZED"), "{why}");
        assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"registry\""), "{why}");
    }
    let owner = user("owner");
    let twice = [("Authorization", owner.as_str()), ("Authorization", owner.as_str())];
    assert_eq!(registry.send("GET", "/v2/", &twice, b"").status, 401);

    // Another thread writes the log.
    eventually("both logins are in the log", || {
        registry.log().matches("login failed").count() >= 2
    });
    let log = registry.log();
    let failed: Vec<&str> = log.lines().filter(|line| line.contains("login failed")).collect();
    assert!(failed[0].contains("WARN") && failed[0].contains("client=127.0.0.1:"), "{}", failed[0]);
    assert!(failed[0].contains("\"owner\"") && failed[1].contains("\"nobody\""), "{failed:?}");
    for secret in ["wrong", "password", "comma"] {
        assert!(
            !failed[..2]
                .iter()
                .any(|line| line.replace("name or password", "").contains(&format!("{secret}\""))),
            "{failed:?}"
        );
        assert!(!log.contains(&format!(":{secret}")), "{log}");
    }
}

#[test]
fn the_old_form_of_errors() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let reply = get_as(&registry, None, "/v1/images/team%2Fapp/tree/");
    assert_eq!(reply.status, 401);
    assert_eq!(reply.header("www-authenticate"), Some("Basic realm=\"registry\""));
    assert!(reply.json()["error"].is_string());
}

/// A verified password is not verified again; a wrong one is, and more slowly
/// each time. The others at the address are not held up.
#[test]
fn slow_for_who_guesses() {
    let dir = folder();
    // Some 100 ms to verify, in release builds.
    let line = htpasswd_line("ann", "right").replace("$04$", "$11$");
    let mut users = fs::read_to_string(dir.path().join("users")).expect("a file");
    users.push_str(&line);
    fs::write(dir.path().join("users"), users).expect("a file");
    let registry = start(dir.path(), &[]);
    let owner = user("owner");
    assert_eq!(ping(&registry, &owner).status, 200);

    let begun = Instant::now();
    for n in 0..5 {
        assert_eq!(ping(&registry, &basic("owner", &format!("guess {n}"))).status, 401);
    }
    let guesses = begun.elapsed();
    // 100, 200, 400 and 800 ms.
    assert!(guesses >= Duration::from_millis(1500), "{guesses:?}");

    // While guesses wait by the dozen, who is known is not kept waiting.
    let guessing: Vec<TcpStream> =
        (0..50).map(|n| begin_login(&registry, &basic("owner", &format!("another {n}")))).collect();
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(ping(&registry, &owner).status, 200);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    drop(guessing);
}

/// Unknown names take as long as known ones, whatever the cost of their hashes.
#[test]
fn unknown_users_cost_the_same() {
    let dir = tempfile::TempDir::new().expect("a temporary folder");
    let lines = ["cheap", "dear"].map(|name| htpasswd_line(name, "right"));
    let users = lines[0].clone() + &lines[1].replace("$04$", "$12$");
    let file = path(dir.path(), "users");
    fs::write(&file, users).expect("a file");
    let mut took = Vec::new();
    for name in ["cheap", "dear", "unknown", "flag"] {
        // A server each, since failures are slowed down.
        let registry = Registry::start_in(dir.path(), &["--htpasswd", &file, "--user", "flag:x"]);
        let best = (0..3).map(|n| {
            let begun = Instant::now();
            assert_eq!(ping(&registry, &basic(name, &format!("wrong {n}"))).status, 401);
            // What the failures before have it wait.
            begun.elapsed().saturating_sub(Duration::from_millis([0, 100, 200][n]))
        });
        took.push(best.min().expect("three"));
    }
    let (least, most) = (took.iter().min().expect("four"), took.iter().max().expect("four"));
    // 2^12 rounds take some 200 ms, 2^4 less than one.
    assert!(*least > Duration::from_millis(30), "{took:?}");
    assert!(*most < *least * 4, "{took:?}");
}

#[test]
fn a_client_that_goes_away_frees_its_place() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    for n in 0..20 {
        drop(begin_login(&registry, &basic("owner", &format!("guess {n}"))));
    }
    // Who is left is served, after one wait at the most.
    let begun = Instant::now();
    assert_eq!(ping(&registry, &user("owner")).status, 200);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// Sends a login and leaves the connection open, without waiting for the answer.
fn begin_login(registry: &Registry, authorization: &str) -> TcpStream {
    let mut stream = registry.connect();
    let head =
        format!("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

/// Users behind one address, such as a proxy's, are not kept out by a guesser among them.
#[test]
fn a_guesser_does_not_keep_neighbours_out() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    for n in 0..5 {
        assert_eq!(ping(&registry, &basic("reader", &format!("guess {n}"))).status, 401);
    }
    let guessing: Vec<TcpStream> = (0..80)
        .map(|n| begin_login(&registry, &basic("reader", &format!("another {n}"))))
        .collect();
    let begun = Instant::now();
    assert_eq!(ping(&registry, &user("owner")).status, 200);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(guessing);
}

#[test]
fn trusted_proxies_tell_clients_apart() {
    let dir = folder();
    let ping_from = |registry: &Registry, client: &str, authorization: &str| {
        let headers = [("X-Forwarded-For", client)];
        send_as(registry, Some(authorization), "GET", "/v2/", &headers, b"").status
    };
    let registry = start(dir.path(), &["--trusted-proxy", "127.0.0.0/8,10.0.0.0/8"]);
    for n in 0..6 {
        let guess = basic("owner", &format!("guess {n}"));
        // What the client itself has written stands first and changes nothing.
        let forwarded = format!("192.0.2.{n}, 203.0.113.1, 10.0.0.2");
        assert_eq!(ping_from(&registry, &forwarded, &guess), 401);
    }
    let begun = Instant::now();
    assert_eq!(ping_from(&registry, "203.0.113.2", &user("owner")), 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let log = registry.log();
    assert_eq!(log.matches("login failed client=203.0.113.1 ").count(), 6, "{log}");
    assert!(log.contains(" client=203.0.113.1 method=GET"), "{log}");
    assert!(!log.contains("client=192.0.2."), "{log}");
    drop(registry);

    let registry = start(dir.path(), &[]);
    assert_eq!(ping_from(&registry, "203.0.113.9", &basic("owner", "guess")), 401);
    assert!(!registry.log().contains("203.0.113.9"), "nobody is trusted unless named");
    drop(registry);

    let output = Registry::command(dir.path(), &["--trusted-proxy", "10.0.0.0/40"]).output();
    let output = output.expect("it ends");
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("10.0.0.0/40") && message.contains("10.0.0.0/8"), "{message}");
}

#[test]
fn open_servers() {
    let registry = Registry::start(&[]);
    // Nobody is anybody there.
    for authorization in [basic("any", "thing"), "nonsense".to_owned()] {
        assert_eq!(ping(&registry, &authorization).status, 200);
    }
    assert_eq!(registry.get("/v2/token").status, 404);

    let dir = tempfile::TempDir::new().expect("a temporary folder");
    let refused = |arguments: &[&str]| {
        let output = Registry::command(dir.path(), arguments).output().expect("it ends");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let message = refused(&["--listen", "0.0.0.0:0"]);
    for part in ["0.0.0.0:0", "--htpasswd", "--insecure-open"] {
        assert!(message.contains(part), "{message}");
    }
    let meant = Registry::start_in(dir.path(), &["--listen", "0.0.0.0:0", "--insecure-open"]);
    drop(meant);
    let closed = ["--listen", "0.0.0.0:0", "--user", "a:b"];
    drop(Registry::start_in(dir.path(), &closed));

    fs::write(dir.path().join("bad"), "ann:{SHA}x\n").expect("a file");
    let bad = path(dir.path(), "bad");
    let message = refused(&["--htpasswd", &bad]);
    assert!(message.contains("bad, line 1: ") && message.contains("bcrypt"), "{message}");
    let message = refused(&["--htpasswd", "/does/not/exist"]);
    assert!(message.contains("/does/not/exist"), "{message}");
    fs::write(dir.path().join("bad"), "[[rules]]\nuser=['a']\n").expect("a file");
    let message = refused(&["--user", "a:b", "--acl", &bad]);
    assert!(message.contains("bad, line 2: unknown field `user`"), "{message}");
    fs::write(dir.path().join("bad"), "short").expect("a file");
    let message = refused(&["--user", "a:b", "--secret", &bad]);
    assert!(message.contains("at least 32"), "{message}");
}

#[test]
fn the_password_command() {
    let line = htpasswd_line("ann", "a b:c");
    assert!(line.starts_with("ann:$2y$04$"), "{line}");
    assert_eq!(line.len(), "ann:".len() + 60 + 1);
    for (arguments, input) in [
        (&["password", "ann"][..], ""),
        (&["password", "a:b"], "x\n"),
        (&["password", "--cost", "17", "ann"], "x\n"),
        (&["password", "ann", "secret"], "x\n"),
    ] {
        let mut child = Command::new(REGISTRY)
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("registry starts");
        // It may have ended before it read.
        drop(child.stdin.take().expect("piped").write_all(input.as_bytes()));
        let mut printed = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut printed).expect("text");
        assert!(!child.wait().expect("its end").success(), "{arguments:?}");
        assert_eq!(printed, "", "{arguments:?}");
    }
}
