//! The sample hooks in `hooks/`, as their first lines say to use them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{REGISTRY, Registry, eventually, need};
use crate::support::push;

/// Starts a registry with a sample for `--on-tag`.
fn with(temp: &TempDir, sample: &str, environment: &[(&str, &str)]) -> Registry {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("hooks").join(sample);
    let script = format!("exec '{}' \"$@\"", path.display());
    let mut command = Registry::command(temp.path(), &["--on-tag", &script]);
    let folder = Path::new(REGISTRY).parent().unwrap().display();
    let search = format!("{folder}:{}", std::env::var("PATH").unwrap());
    command.env("NO_PROXY", "*").env("PATH", search);
    command.envs(environment.iter().copied());
    Registry::spawn(temp.path(), command)
}

#[test]
fn deploy_on_tag() {
    let temp = TempDir::new().unwrap();
    let out = temp.path().join("deployed");
    let command = format!("printf '%s\\n' \"$1\" >> '{}'", out.display());
    let settings = [
        ("DEPLOY_TAGS", "team/*:prod*"),
        ("DEPLOY_COMMAND", &command),
        ("DEPLOY_REGISTRY", "registry.example.org"),
    ];
    let registry = with(&temp, "deploy-on-tag", &settings);
    for (repository, tag) in
        [("team/app", "1.0"), ("team/app", "prod-7"), ("other", "prod"), ("team/app", "prod-8")]
    {
        push(&registry, repository, tag, "a", b"1");
    }
    eventually("it is deployed", || registry.log().contains("deployed team/app:prod-8"));
    let deployed = fs::read_to_string(out).unwrap();
    let want = "registry.example.org/team/app:prod-7\nregistry.example.org/team/app:prod-8\n";
    assert_eq!(deployed, want);
    assert!(!registry.log().contains("failed"), "{}", registry.log());
}

#[test]
fn chat_on_tag() {
    need("curl", "curl");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/services/T0/secret", listener.local_addr().unwrap());
    let posted = thread::spawn(move || -> (String, Value) {
        let (stream, _) = listener.accept().unwrap();
        let mut wire = BufReader::new(stream);
        let (mut request, mut length) = (String::new(), 0);
        wire.read_line(&mut request).unwrap();
        loop {
            let mut line = String::new();
            wire.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        wire.read_exact(&mut body).unwrap();
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        wire.get_mut().write_all(answer.as_bytes()).unwrap();
        (request, serde_json::from_slice(&body).expect("JSON"))
    });
    let temp = TempDir::new().unwrap();
    let registry = with(&temp, "chat-on-tag", &[("CHAT_URL", &url)]);
    let image = push(&registry, "team/app", "1.0", "a", b"1");
    let (request, body) = posted.join().unwrap();
    assert_eq!(request, "POST /services/T0/secret HTTP/1.1\r\n");
    let id = &image.config.hex()[..12];
    let text = format!("team/app:1.0 is now {id}, pushed by somebody from 127.0.0.1");
    assert_eq!(body, json!({"text": text}));
}

#[test]
fn warn_of_secrets() {
    need("tar", "tar");
    let temp = TempDir::new().unwrap();
    let registry = with(&temp, "warn-of-secrets", &[]);
    push(&registry, "a", "clean", "etc/motd", b"nothing to see");
    let key = b"-----BEGIN RSA PRIVATE KEY-----\n\0\n";
    push(&registry, "a", "leaks", "root/it's $(here)", key);
    push(&registry, "a", "after", "etc/motd", b"nothing again");
    let warning = "warning: a:leaks holds something that looks like a secret: root/it's $(here)";
    eventually("it warns", || registry.log().contains(warning));
    let log = registry.log();
    assert!(!log.contains("warning: a:clean") && !log.contains("failed"), "{log}");
}
