//! Commands with `--server`: which login they use, where they find it, and what it shows.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{REGISTRY, Registry};
use crate::support::{USERS, folder, password, path, push, start};
use crate::tokens::{Service, start_at};

/// A home of its own, with a `config.json`.
struct Home(TempDir);

impl Home {
    fn new(config: &Value) -> Home {
        let home = Home(TempDir::new().expect("a temporary folder"));
        home.write(".docker/config.json", &config.to_string());
        home
    }

    /// With the login of one of the users.
    fn of(host: &str, name: &str) -> Home {
        Home::new(&json!({"auths": {host: {"auth": auth(name, &password(name))}}}))
    }

    fn write(&self, name: &str, text: &str) -> String {
        let file = self.0.path().join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, text).expect("a file");
        path(self.0.path(), name)
    }

    fn script(&self, name: &str, text: &str) {
        let file = self.write(name, &format!("#!/bin/sh\n{text}"));
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(REGISTRY);
        for name in ["DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "SSL_CERT_FILE"] {
            command.env_remove(name);
        }
        let path = std::env::var("PATH").expect("a PATH");
        let bin = self.0.path().join("bin");
        command
            .args(arguments)
            .env("HOME", self.0.path())
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("NO_PROXY", "*")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, url: &str, line: &str) -> Output {
        let mut words = line.split(' ');
        let name = words.next().expect("a command");
        let arguments: Vec<&str> = [name, "--server", url].into_iter().chain(words).collect();
        self.command(&arguments).output().expect("it runs")
    }

    #[track_caller]
    fn shows(&self, url: &str, line: &str) -> String {
        let output = self.run(url, line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {stderr}");
        assert_eq!(stderr, "", "{line}");
        String::from_utf8(output.stdout).expect("text")
    }

    #[track_caller]
    fn fails(&self, url: &str, line: &str, complaint: &str) {
        let output = self.run(url, line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{line}: {output:?}");
        assert!(stderr.contains(complaint), "{line}: {stderr}");
    }
}

fn auth(name: &str, password: &str) -> String {
    BASE64.encode(format!("{name}:{password}"))
}

fn local(dir: &Path, line: &str) -> Output {
    let mut words = line.split(' ');
    let mut command = Command::new(REGISTRY);
    command.arg(words.next().expect("a command")).arg("--dir").arg(dir).args(words);
    command.stdin(Stdio::null()).output().expect("it runs")
}

fn registry(dir: &Path, more: &[&str]) -> (Registry, String) {
    let registry = start(dir, more);
    push(&registry, "team/app", "app");
    push(&registry, "team/second", "app");
    push(&registry, "other/x", "app");
    push(&registry, "public/base", "base");
    crate::common::eventually("everything is indexed", || {
        registry.get("/v2/_query/find").text().contains("\"waiting_layers\":0")
    });
    let url = format!("http://{}", registry.host());
    (registry, url)
}

/// A user sees what somebody would see on a folder that has nothing else.
#[test]
fn users_see_what_they_may_pull() {
    let dir = folder();
    let (registry, url) = registry(dir.path(), &[]);
    for name in USERS {
        let scope = match name {
            "owner" => "**",
            "stranger" => "{other,public}/**",
            _ => "{team,public}/**",
        };
        let home = Home::of(&registry.host(), name);
        for (remote, beside) in [
            ("find", format!("find --in {scope}")),
            ("find --json app", format!("find --json app --in {scope}")),
            ("find --images --untagged", format!("find --images --untagged --in {scope}")),
            ("grep -n .", format!("grep -n . --in {scope}")),
            ("grep --json --untagged .", format!("grep --json --untagged . --in {scope}")),
            ("waste --all --json", format!("waste --all --json --in {scope}")),
        ] {
            let (remote, beside) = (home.run(&url, remote), local(dir.path(), &beside));
            assert_eq!(remote, beside, "{name}: {remote:?}");
        }
        let may = if name == "stranger" { "other/x:1" } else { "team/app:1" };
        for line in [
            format!("ls -lR {may}"),
            format!("cat {may} etc/app"),
            format!("export {may}"),
            format!("diff {may} public/base:1"),
            format!("waste {may}"),
            format!("index {may}"),
        ] {
            let (remote, beside) = (home.run(&url, &line), local(dir.path(), &line));
            assert_eq!(remote, beside, "{name}: {line}: {remote:?}");
        }
    }
    // What may not be seen does not exist.
    let stranger = Home::of(&registry.host(), "stranger");
    for command in
        ["ls NAME", "cat NAME x", "export NAME", "waste NAME", "index NAME", "grep x NAME"]
    {
        let said = |name: &str| {
            let output = stranger.run(&url, &command.replace("NAME", name));
            assert!(!output.status.success(), "{command} {name}");
            let said = String::from_utf8(output.stderr).expect("text");
            said.replace(name.trim_end_matches(":1"), "NAME")
        };
        assert_eq!(said("team/app:1"), said("team/nil:1"), "{command}");
    }
    // To index again takes a right that the reader lacks.
    Home::of(&registry.host(), "writer").shows(&url, "index --force team/app:1");
    let reader = Home::of(&registry.host(), "reader").run(&url, "index --force team/app:1");
    assert_eq!(reader.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&reader.stdout).into_owned();
    assert!(shown.contains("this login may not push to repository team/app"), "{shown}");
}

#[test]
fn where_logins_are() {
    let dir = folder();
    let (registry, url) = registry(dir.path(), &[]);
    let host = registry.host();
    let good = auth("owner", &password("owner"));
    let (line, want) = ("cat team/app:1 etc/app", "app");
    let nothing = Home::new(&json!({}));
    nothing.fails(&url, line, &format!("wants a login: `docker login {host}`"));
    nothing.fails(&url, "find", &url);
    fs::remove_file(nothing.0.path().join(".docker/config.json")).expect("it is there");
    nothing.fails(&url, line, "wants a login");
    let wrong = Home::new(&json!({"auths": {&host: {"auth": auth("owner", "x")}}}));
    wrong.fails(&url, line, &format!("refuses the login that is stored for {host}"));
    let broken = Home::new(&json!({"auths": []}));
    broken.fails(&url, line, ".docker/config.json is not a file of logins");

    for auths in [
        json!({&host: {"auth": good}}),
        json!({format!("http://{host}/v1/"): {"auth": good}}),
        json!({&host: {"username": "owner", "password": password("owner")}}),
        json!({"other:5000": {"auth": auth("x", "y")}, &host: {"auth": good}}),
    ] {
        assert_eq!(Home::new(&json!({"auths": auths})).shows(&url, line), want, "{auths}");
    }
    let config = json!({"auths": {&host: {"auth": good}}}).to_string();
    for (variable, file, value) in [
        ("DOCKER_CONFIG", "d/config.json", "d"),
        ("XDG_RUNTIME_DIR", "run/containers/auth.json", "run"),
        ("REGISTRY_AUTH_FILE", "auth.json", "auth.json"),
    ] {
        nothing.write(file, &config);
        let mut words = vec!["cat", "--server", &url];
        words.extend(["team/app:1", "etc/app"]);
        let value = path(nothing.0.path(), value);
        let output = nothing.command(&words).env(variable, value).output().expect("it runs");
        assert_eq!(output.stdout, want.as_bytes(), "{variable}: {output:?}");
    }
    nothing.write(".config/containers/auth.json", &config);
    assert_eq!(nothing.shows(&url, line), want);
}

#[test]
fn credential_helpers() {
    let dir = folder();
    let (registry, url) = registry(dir.path(), &[]);
    let host = registry.host();
    let (line, want) = ("cat team/app:1 etc/app", "app");
    let answer = json!({"ServerURL": host, "Username": "reader", "Secret": password("reader")});
    let answer = answer.to_string();
    let answer = format!(
        "test \"$1 $(cat)\" = 'get {host}' || exit 9\necho '{}'",
        answer.replace('\'', "'\\''")
    );
    let unknown = "echo credentials not found in native keychain\nexit 1";
    for (config, script, want) in [
        (json!({"credsStore": "test"}), answer.as_str(), Ok(want)),
        (json!({"credHelpers": {&host: "test"}, "credsStore": "none"}), &answer, Ok(want)),
        (
            json!({"credHelpers": {"other": "none"}, "credsStore": "test", "auths": {&host: {}}}),
            &answer,
            Ok(want),
        ),
        (json!({"credsStore": "test"}), unknown, Err("wants a login")),
        (
            json!({"credsStore": "test", "auths": {&host: {"auth": auth("owner", &password("owner"))}}}),
            unknown,
            Ok(want),
        ),
        (
            json!({"credsStore": "test"}),
            "echo the keychain is locked\nexit 1",
            Err("failed: the keychain is locked"),
        ),
        (json!({"credsStore": "test"}), "exit 3", Err("docker-credential-test")),
        (json!({"credsStore": "test"}), "echo '{}'", Err("its answer is not JSON with Username")),
        (json!({"credsStore": "none"}), "", Err("cannot run docker-credential-none")),
        (json!({"credsStore": "../test"}), "", Err("not a credential helper")),
    ] {
        let home = Home::new(&config);
        home.script("bin/docker-credential-test", script);
        match want {
            Ok(want) => assert_eq!(home.shows(&url, line), want, "{config}"),
            Err(complaint) => home.fails(&url, line, complaint),
        }
    }
}

/// Where pulls need no login, a login that is stored is used all the same.
#[test]
fn pulls_without_a_login() {
    let dir = folder();
    let (registry, url) = registry(dir.path(), &["--anonymous", "pull"]);
    let nothing = Home::new(&json!({}));
    assert_eq!(nothing.shows(&url, "find --images"), "public/base:1\n");
    assert_eq!(nothing.shows(&url, "cat public/base:1 etc/base"), "base");
    nothing.fails(
        &url,
        "cat team/app:1 etc/app",
        "as far as it can be seen without a login for 127.",
    );
    let reader = Home::of(&registry.host(), "reader");
    assert_eq!(reader.shows(&url, "find --images"), "public/base:1\nteam/app:1\nteam/second:1\n");
    assert_eq!(reader.shows(&url, "cat team/app:1 etc/app"), "app");
    let wrong = Home::new(&json!({"auths": {registry.host(): {"auth": auth("reader", "x")}}}));
    wrong.fails(&url, "find", "refuses the login");
}

/// A token service for tests: it notes what it is asked, and answers with a token that is signed by
/// `sign` for the scopes.
fn service(
    sign: impl Fn(&[String]) -> String + Send + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/token", listener.local_addr().expect("an address"));
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut request = Vec::new();
            let mut piece = [0; 4096];
            loop {
                let length = stream.read(&mut piece).expect("a request");
                request.extend_from_slice(&piece[..length]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let wanted = head.lines().find_map(|line| {
                    line.to_lowercase().strip_prefix("content-length: ")?.parse().ok()
                });
                if body.len() >= wanted.unwrap_or(0) {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&request).into_owned();
            let target = text.split(' ').nth(1).expect("a target").to_owned();
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let query = format!("{}&{body}", target.split_once('?').map_or("", |(_, query)| query));
            let scopes: Vec<String> = query
                .split('&')
                .filter_map(|pair| pair.strip_prefix("scope="))
                .flat_map(|scope| {
                    let scope = scope.replace("%3A", ":").replace("%2F", "/").replace("%20", "+");
                    scope.split('+').map(str::to_owned).collect::<Vec<_>>()
                })
                .filter(|scope| !scope.is_empty())
                .collect();
            let token = sign(&scopes);
            noted.lock().expect("no panic").push(text);
            let body = json!({"token": token}).to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).expect("it reads");
        }
    });
    (url, asked)
}

#[test]
fn token_services() {
    let key = Arc::new(Service::new());
    let dir = folder();
    let mut owned = start(dir.path(), &[]);
    push(&owned, "team/app", "app");
    push(&owned, "other/x", "x");
    assert!(owned.stop().success());

    let signer = Arc::clone(&key);
    let (realm, asked) = service(move |scopes| {
        let access = scopes.iter().filter_map(|scope| {
            let mut parts = scope.split(':');
            let (kind, name) = (parts.next()?, parts.next()?);
            let actions: Vec<&str> = parts.next()?.split(',').collect();
            Some(json!({"type": kind, "name": name, "actions": actions}))
        });
        let token = signer.token_of(Some("ann"), &access.collect());
        token.strip_prefix("Bearer ").expect("a token").to_owned()
    });
    let registry = start_at(&dir, &key, &realm, &[]);
    let url = format!("http://{}", registry.host());
    let home = Home::of(&registry.host(), "ann");
    assert_eq!(home.shows(&url, "cat team/app:1 etc/app"), "app");
    home.shows(&url, "ls -lR team/app:1");
    assert_eq!(home.run(&url, "diff --stat team/app:1 other/x:1").status.code(), Some(1));
    home.shows(&url, "index team/app:1");
    home.shows(&url, "grep app team/app:1");
    let basic = auth("ann", &password("ann"));
    let requests = std::mem::take(&mut *asked.lock().expect("no panic"));
    assert!(!requests.is_empty());
    for request in &requests {
        assert!(request.contains(&format!("Basic {basic}")), "{request}");
        assert!(
            request.contains("service=registry.test") && request.contains("account=ann"),
            "{request}"
        );
        assert!(!request.contains("push"), "{request}");
    }

    // An identity token is exchanged.
    let identity = Home::new(
        &json!({"auths": {registry.host(): {"auth": auth("ann", ""), "identitytoken": "refresh me"}}}),
    );
    assert_eq!(identity.shows(&url, "cat team/app:1 etc/app"), "app");
    let requests = std::mem::take(&mut *asked.lock().expect("no panic"));
    assert!(requests.iter().all(|request| request.starts_with("POST /token")), "{requests:?}");
    assert!(requests[0].contains("grant_type=refresh_token"), "{requests:?}");
    assert!(
        requests[0].contains("refresh_token=refresh+me")
            || requests[0].contains("refresh_token=refresh%20me"),
        "{requests:?}"
    );
}
