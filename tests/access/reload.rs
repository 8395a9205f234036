//! Files that change while the server runs.

use std::fs;
use std::io::{Read, Write};

use crate::common::{Registry, eventually};
use crate::support::{RULES, basic, folder, get_as, htpasswd_line, push, send_as, start, user};

fn status(registry: &Registry, authorization: &str, path: &str) -> u16 {
    get_as(registry, Some(authorization), path).status
}

#[test]
fn users() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let file = dir.path().join("users");
    let (reader, new) = (user("reader"), basic("reader", "new"));
    assert_eq!(status(&registry, &reader, "/v2/"), 200);

    // Replaced, as editors do.
    let text = fs::read_to_string(&file).expect("a file");
    let others: String = text
        .lines()
        .filter(|line| !line.starts_with("reader:"))
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(dir.path().join("next"), format!("{others}{}", htpasswd_line("reader", "new")))
        .expect("a file");
    fs::rename(dir.path().join("next"), &file).expect("a file");
    eventually("the old password is forgotten, also where it was remembered", || {
        status(&registry, &reader, "/v2/") == 401
    });
    assert_eq!(status(&registry, &new, "/v2/"), 200);

    // Written in place, and broken: what there was stays.
    fs::write(&file, "reader:plain\n").expect("a file");
    eventually("the log says so", || {
        status(&registry, &new, "/v2/");
        registry.log().contains("a changed file cannot be used")
    });
    assert_eq!(status(&registry, &new, "/v2/"), 200);
    eventually("the log says so", || {
        registry.log().contains("users, line 1: the hash of \"reader\" is not bcrypt's")
    });

    fs::write(&file, &others).expect("a file");
    eventually("the user is gone", || status(&registry, &new, "/v2/") == 401);
    assert_eq!(status(&registry, &user("owner"), "/v2/"), 200);
}

#[test]
fn rules() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    push(&registry, "team/app", "app");
    let (reader, path) = (user("reader"), "/v2/team/app/manifests/1");
    assert_eq!(status(&registry, &reader, path), 200);
    let file = dir.path().join("rules");
    fs::write(&file, RULES.replace("\"reader\", ", "")).expect("a file");
    eventually("the rule is gone", || status(&registry, &reader, path) == 404);
    fs::write(&file, "[[rules]]\nusers = 'reader'\n").expect("a file");
    eventually("the log says so", || {
        status(&registry, &reader, path);
        registry.log().contains("rules, line 2: ")
    });
    assert_eq!(status(&registry, &reader, path), 404, "no better for a broken file");
    assert_eq!(status(&registry, &user("owner"), path), 200, "and no worse");
    fs::remove_file(&file).expect("a file");
    // As Kubernetes turns a secret.
    fs::write(dir.path().join("v2"), RULES).expect("a file");
    std::os::unix::fs::symlink("v2", &file).expect("a link");
    eventually("the rule is back", || status(&registry, &reader, path) == 200);
}

/// Tokens end with their user's password, and outlive the server by its secret.
#[test]
fn logins_by_token() {
    let dir = folder();
    fs::write(dir.path().join("secret"), "0123456789abcdef".repeat(2)).expect("a file");
    let secret = crate::support::path(dir.path(), "secret");
    let arguments = ["--anonymous", "pull", "--secret", &secret];
    let mut registry = start(dir.path(), &arguments);
    push(&registry, "team/app", "app");
    push(&registry, "public/a", "a");
    let token = |registry: &Registry, who: Option<&str>| {
        let reply =
            get_as(registry, who, "/v2/token?service=registry&scope=repository:team/app:pull");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let document = reply.json();
        assert_eq!(document["token"], document["access_token"]);
        assert_eq!(document["expires_in"], 300);
        format!("Bearer {}", document["token"].as_str().expect("a token"))
    };
    let reader = token(&registry, Some(&user("reader")));
    let nobody = token(&registry, None);
    for (who, path, want) in [
        (&reader, "/v2/", 200),
        (&nobody, "/v2/", 200),
        (&reader, "/v2/team/app/manifests/1", 200),
        (&reader, "/v2/public/a/manifests/1", 200),
        (&reader, "/v2/other/a/manifests/1", 404),
        (&nobody, "/v2/team/app/manifests/1", 401),
        (&nobody, "/v2/public/a/manifests/1", 200),
    ] {
        assert_eq!(status(&registry, who, path), want, "{path}");
    }
    let host = registry.host();
    let realm = format!("Bearer realm=\"http://{host}/v2/token\",service=\"registry\"");
    let challenge = |who: Option<&str>, headers: &[(&str, &str)], path: &str| {
        let reply = send_as(&registry, who, "GET", path, headers, b"");
        assert_eq!(reply.status, 401);
        reply.header("www-authenticate").expect("a challenge").to_owned()
    };
    assert_eq!(challenge(None, &[], "/v2/"), realm);
    let forwarded = [("X-Forwarded-Proto", "https")];
    assert_eq!(challenge(None, &forwarded, "/v2/"), realm.replace("http:", "https:"));
    let path = "/v2/team/app/manifests/1";
    assert_eq!(challenge(None, &[], path), format!("{realm},scope=\"repository:team/app:pull\""));
    assert_eq!(
        challenge(Some(&nobody), &[], path),
        format!("{realm},scope=\"repository:team/app:pull\",error=\"insufficient_scope\"")
    );
    let wrong = basic("reader", "wrong");
    assert_eq!(challenge(Some(&wrong), &[], "/v2/token"), "Basic realm=\"registry\"");
    let post = send_as(&registry, None, "POST", "/v2/token", &[], b"grant_type=password");
    assert_eq!(post.status, 405, "clients then try GET");
    let tampered = reader.replacen("cmVhZGVy", "b3duZXI", 1);
    assert_ne!(tampered, reader);
    assert_eq!(status(&registry, &tampered, "/v2/"), 401);

    registry.stop();
    let registry = start(dir.path(), &arguments);
    assert_eq!(status(&registry, &reader, path), 200, "the secret is the same");
    let text = fs::read_to_string(dir.path().join("users")).expect("a file");
    let others: String = text
        .lines()
        .filter(|line| !line.starts_with("reader:"))
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(dir.path().join("users"), others + &htpasswd_line("reader", "new")).expect("a file");
    eventually("the token ends with the password", || status(&registry, &reader, path) == 401);
}

/// A stream of events is asked again when its user or rules change, and ends with its token.
#[test]
fn streams_end_with_their_credentials() {
    let dir = folder();
    let registry = start(dir.path(), &["--anonymous", "pull", "--event-heartbeat", "1s"]);
    let file = dir.path().join("users");
    let text = fs::read_to_string(&file).expect("a file");
    let open = |authorization: &str| {
        let mut stream = registry.connect();
        let head = format!(
            "GET /v1/events HTTP/1.0\r\nHost: localhost\r\nAuthorization: {authorization}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("a request");
        stream
    };
    let token = get_as(&registry, Some(&user("reader")), "/v2/token").json();
    let token = format!("Bearer {}", token["token"].as_str().expect("a token"));
    let streams = [user("reader"), token].map(|authorization| open(&authorization));
    let mut other = open(&user("writer"));
    let others: Vec<&str> = text.lines().filter(|line| !line.starts_with("reader:")).collect();
    fs::write(&file, others.join("\n")).expect("a file");
    for mut stream in streams {
        let mut read = String::new();
        stream.read_to_string(&mut read).expect("the stream ends");
        assert!(read.contains("the credentials hold no longer"), "{read}");
    }
    push(&registry, "team/app", "app");
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("team/app") {
        let mut piece = [0; 1024];
        let length = other.read(&mut piece).expect("the stream goes on");
        assert!(length > 0, "{}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&piece[..length]);
    }
}

/// Some editors begin a file with a byte order mark, which is no part of a name.
#[test]
fn byte_order_marks() {
    let dir = folder();
    for name in ["users", "rules"] {
        let file = dir.path().join(name);
        let text = fs::read_to_string(&file).expect("a file");
        fs::write(&file, format!("\u{feff}{text}")).expect("a file");
    }
    let registry = start(dir.path(), &[]);
    assert_eq!(status(&registry, &user("owner"), "/v2/"), 200);
}
