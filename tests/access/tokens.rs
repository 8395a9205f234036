//! Tokens: Docker v1's, which this server signs, and those of an outside service.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Registry, Reply, eventually};
use crate::support::{folder, get_as, path, push, send_as, start, user};

#[test]
fn first_api() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    push(&registry, "team/app", "app");
    push(&registry, "team/second", "second");
    let token = |who: &str, method: &str, path: &str, body: &[u8]| {
        let headers = [("X-Docker-Token", "true")];
        let reply = send_as(&registry, Some(&user(who)), method, path, &headers, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let token = reply.header("x-docker-token").expect("a token").to_owned();
        let challenge = reply.header("www-authenticate").expect("the same token");
        assert_eq!(challenge, format!("Token {token}"));
        format!("Token {token}")
    };
    let read = token("writer", "GET", "/v1/repositories/team/app/images", b"");
    let write = token("writer", "PUT", "/v1/repositories/team/app/", b"[]");
    for (token, access) in [(&read, "read"), (&write, "write")] {
        let end = format!(r#",repository="team/app",access={access}"#);
        assert!(token.starts_with("Token signature=") && token.ends_with(&end), "{token}");
    }
    let images = "/v1/repositories/team/app/images";
    let status = |token: &str, method: &str, path: &str| {
        let body: &[u8] = if method == "PUT" { b"[]" } else { b"" };
        send_as(&registry, Some(token), method, path, &[], body).status
    };
    for (token, method, path, want, why) in [
        (&read, "GET", images, 200, "what it is for"),
        (&read, "PUT", images, 403, "it is for reading"),
        (&write, "GET", images, 200, "who writes reads"),
        (&write, "PUT", images, 204, "what it is for"),
        (&write, "DELETE", images, 403, "the writer may not delete"),
        (&write, "GET", "/v1/repositories/team/second/images", 404, "another repository"),
        (&write, "GET", "/v2/team/app/manifests/1", 200, "both APIs are one world"),
    ] {
        assert_eq!(status(token, method, path), want, "{why}");
    }
    for forged in [
        read.replace("access=read", "access=write"),
        write.replace("team/app", "team/second"),
        write.replace("signature=1", "signature=9"),
        write.replace("signature=", "signature=A"),
        "Token signature=,repository=\"team/app\",access=write".to_owned(),
    ] {
        assert_eq!(status(&forged, "GET", images), 401, "{forged}");
    }

    // An image's parts belong to no repository: whoever may push to one pushes them.
    let image = format!("/v1/images/{}/json", "0123456789abcdef".repeat(4));
    for (who, want) in [
        (None, 401),
        (Some(user("reader")), 403),
        (Some(read.clone()), 403),
        (Some(write.clone()), 400),
        (Some(user("stranger")), 400),
    ] {
        let reply = send_as(&registry, who.as_deref(), "PUT", &image, &[], b"no JSON");
        assert_eq!(reply.status, want, "{who:?}: {}", reply.text());
    }

    // Image ids are found where the token's repository has them.
    let ids = get_as(&registry, Some(&read), images).json();
    let id = ids[0]["id"].as_str().expect("an id").to_owned();
    let other = token("writer", "GET", "/v1/repositories/team/second/images", b"");
    let ancestry = format!("/v1/images/{id}/ancestry");
    assert_eq!(status(&read, "GET", &ancestry), 200);
    assert_eq!(status(&other, "GET", &ancestry), 404);
    assert_eq!(status(&user("stranger"), "GET", &ancestry), 404);
    assert_eq!(send_as(&registry, None, "GET", &ancestry, &[], b"").status, 401);
}

/// A repository that its owners have made private is for users, whatever the rules
/// give who is anonymous.
/// Otherwise one password, once stolen and changed again, would be good for ever.
#[test]
fn only_a_password_makes_a_token() {
    let dir = folder();
    let registry = start(dir.path(), &["--anonymous", "pull"]);
    push(&registry, "team/app", "app");
    let login = get_as(&registry, Some(&user("reader")), "/v2/token").json();
    let login = format!("Bearer {}", login["token"].as_str().expect("a token"));
    let images = "/v1/repositories/team/app/images";
    let v1 = |authorization: &str| {
        let reply = get_as(&registry, Some(authorization), images);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.header("x-docker-token").map(|token| format!("Token {token}"))
    };
    let signed = v1(&user("reader")).expect("a token for a password");
    for token in [&login, &signed] {
        assert_eq!(get_as(&registry, Some(token), "/v2/token").status, 401, "{token}");
        assert_eq!(v1(token), None, "{token}");
    }
}

#[test]
fn private_repositories() {
    let dir = folder();
    let registry = start(dir.path(), &["--anonymous", "pull"]);
    push(&registry, "public/base", "base");
    let manifest = "/v2/public/base/manifests/1";
    assert_eq!(get_as(&registry, None, manifest).status, 200);
    let set = |access: &str| {
        let body = json!({"access": access}).to_string();
        let path = "/v1/repositories/public/base/properties";
        assert_eq!(registry.send("PUT", path, &[], body.as_bytes()).status, 200);
    };
    set("private");
    assert_eq!(get_as(&registry, None, manifest).status, 401);
    assert_eq!(get_as(&registry, None, "/v2/_catalog").json()["repositories"], json!([]));
    assert_eq!(get_as(&registry, Some(&user("stranger")), manifest).status, 200);
    set("public");
    assert_eq!(get_as(&registry, None, manifest).status, 200);
}

/// A token service: it has a key, and signs what it is asked to.
pub struct Service {
    key: KeyPair,
}

impl Service {
    pub fn new() -> Service {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        Service { key }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let [header, claims] = [header, claims].map(|part| BASE64.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        let signature = self.key.sign(message.as_bytes()).expect("a signature");
        format!("Bearer {message}.{}", BASE64.encode(signature))
    }

    /// A token for somebody; `None`: it does not say for whom.
    pub fn token_of(&self, subject: Option<&str>, access: &Value) -> String {
        let mut claims = claims(access);
        claims["sub"] = json!(subject);
        self.sign(&json!({"alg": "EdDSA"}), &claims)
    }

    fn token(&self, access: &Value) -> String {
        self.sign(&json!({"alg": "EdDSA"}), &claims(access))
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn claims(access: &Value) -> Value {
    json!({"iss": "issuer", "aud": "registry.test", "sub": "ann", "exp": now() + 300, "access": access})
}

pub fn grant(name: &str, actions: &[&str]) -> Value {
    json!([{"type": "repository", "name": name, "actions": actions}])
}

pub fn start_with(dir: &TempDir, service: &Service, more: &[&str]) -> Registry {
    start_at(dir, service, "https://auth.test/token", more)
}

/// The same with a token service that answers.
pub fn start_at(dir: &TempDir, service: &Service, realm: &str, more: &[&str]) -> Registry {
    let certs = path(dir.path(), "certs");
    fs::write(&certs, service.key.public_key_pem()).expect("a file");
    let flags = [
        "--token-realm",
        realm,
        "--token-service",
        "registry.test",
        "--token-issuer",
        "issuer",
        "--token-certs",
        &certs,
    ];
    Registry::start_in(dir.path(), &[&flags, more].concat())
}

const REALM: &str = r#"Bearer realm="https://auth.test/token",service="registry.test""#;

fn challenge(reply: &Reply) -> &str {
    assert_eq!((reply.status, reply.code().as_str()), (401, "UNAUTHORIZED"), "{}", reply.text());
    reply.header("www-authenticate").expect("a challenge")
}

#[test]
fn outside_service() {
    let dir = TempDir::new().expect("a temporary folder");
    let service = Service::new();
    let mut registry = start_with(&dir, &service, &[]);
    let all = json!([
        {"type": "repository", "name": "team/app", "actions": ["*"]},
        {"type": "repository", "name": "team/second", "actions": ["*"]},
        {"type": "registry", "name": "catalog", "actions": ["*"]},
    ]);
    registry.authorization = Some(service.token(&all));
    let pushed = push(&registry, "team/app", "app");
    push(&registry, "team/second", "second");

    for (method, path, scope) in [
        ("GET", "/v2/", ""),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
        ("GET", "/v2/team/app/manifests/1", "repository:team/app:pull"),
        ("POST", "/v2/team/app/blobs/uploads/", "repository:team/app:pull,push"),
        ("DELETE", "/v2/team/app/manifests/1", "repository:team/app:delete"),
        ("GET", "/v2/no/such/tags/list", "repository:no/such:pull"),
    ] {
        let want = match scope {
            "" => REALM.to_owned(),
            scope => format!("{REALM},scope=\"{scope}\""),
        };
        let reply = send_as(&registry, None, method, path, &[], b"");
        assert_eq!(challenge(&reply), want, "{method} {path}");
        if scope.is_empty() {
            continue;
        }
        // With a token for something else.
        let other = service.token(&grant("team/other", &["*"]));
        let reply = send_as(&registry, Some(&other), method, path, &[], b"");
        let want = format!("{want},error=\"insufficient_scope\"");
        assert_eq!(challenge(&reply), want, "{method} {path}");
    }

    let (pull, push_only, delete) = (
        service.token(&grant("team/app", &["pull"])),
        service.token(&grant("team/app", &["push"])),
        service.token(&grant("team/app", &["delete"])),
    );
    let catalog =
        service.token(&json!([{"type": "registry", "name": "catalog", "actions": ["*"]}]));
    let blob = format!("/v2/team/app/blobs/{}", pushed.layer);
    for (token, method, path, want) in [
        (&pull, "GET", "/v2/", 200),
        (&pull, "GET", "/v2/team/app/manifests/1", 200),
        (&pull, "GET", &blob, 200),
        (&pull, "GET", "/v2/team/app/_files/tree/1/etc", 200),
        (&pull, "GET", "/v1/images/team%2Fapp:1/tree/etc", 200),
        (&pull, "GET", "/v2/team/second/manifests/1", 401),
        (&pull, "POST", "/v2/team/app/blobs/uploads/", 401),
        (&pull, "DELETE", &blob, 401),
        (&push_only, "POST", "/v2/team/app/blobs/uploads/", 202),
        (&push_only, "GET", &blob, 401),
        (&delete, "GET", &blob, 401),
        (&catalog, "GET", "/v2/_catalog", 200),
        (&catalog, "GET", &blob, 401),
        (&delete, "DELETE", &blob, 202),
    ] {
        let reply = send_as(&registry, Some(token), method, path, &[], b"");
        assert_eq!(reply.status, want, "{method} {path}: {}", reply.text());
    }
    let names = get_as(&registry, Some(&catalog), "/v2/_catalog").json();
    assert_eq!(names["repositories"], json!(["team/app", "team/second"]));

    // A mount reads one repository and writes another: the token must grant both.
    let mount = format!("/v2/team/second/blobs/uploads/?mount={}&from=team/app", pushed.config);
    let second = service.token(&grant("team/second", &["pull", "push"]));
    assert_eq!(send_as(&registry, Some(&second), "POST", &mount, &[], b"").status, 202);
    assert_eq!(registry.send("POST", &mount, &[], b"").status, 201);
}

#[test]
fn refused_tokens() {
    let dir = TempDir::new().expect("a temporary folder");
    let (service, other) = (Service::new(), Service::new());
    let registry = start_with(&dir, &service, &[]);
    let access = grant("team/app", &["*"]);
    let header = json!({"alg": "EdDSA", "typ": "JWT"});
    let with = |name: &str, value: Value| {
        let mut claims = claims(&access);
        claims[name] = value;
        service.sign(&header, &claims)
    };
    let good = with("iat", json!(now()));
    assert_eq!(get_as(&registry, Some(&good), "/v2/").status, 200);
    let none = BASE64.encode(r#"{"alg":"none"}"#);
    let body = BASE64.encode(claims(&access).to_string());
    let long = format!("{good}{}", "A".repeat(20_000));
    for (token, why) in [
        (with("exp", json!(now() - 61)), "expired"),
        (with("nbf", json!(now() + 120)), "not yet"),
        (with("iss", json!("else")), "another issuer"),
        (with("aud", json!("else")), "another audience"),
        (other.token(&access), "another key"),
        (format!("Bearer {none}.{body}."), "alg none"),
        (service.sign(&json!({"alg": "HS256"}), &claims(&access)), "another algorithm"),
        (service.sign(&json!({"alg": "RS256"}), &claims(&access)), "the key is of another kind"),
        (good.replacen("Bearer e", "Bearer f", 1), "tampered with"),
        (long, "too long"),
        ("Bearer registry.9999999999..AAAA".to_owned(), "a forged login"),
        ("Bearer".to_owned(), "nothing"),
    ] {
        let reply = get_as(&registry, Some(&token), "/v2/team/app/tags/list");
        let want = format!("{REALM},scope=\"repository:team/app:pull\",error=\"invalid_token\"");
        assert_eq!(challenge(&reply), want, "{why}");
    }
    // More than any head may have.
    let huge = format!("Bearer {}", "A".repeat(100_000));
    assert_eq!(get_as(&registry, Some(&huge), "/v2/").status, 431);
    eventually("the log says so", || {
        registry.log().contains("the token is refused: it has expired")
    });

    // The service takes another key.
    fs::write(dir.path().join("certs"), other.key.public_key_pem()).expect("a file");
    eventually("the old key is forgotten", || get_as(&registry, Some(&good), "/v2/").status == 401);
    assert_eq!(get_as(&registry, Some(&other.token(&access)), "/v2/").status, 200);
}

/// Users of the server's own beside the service.
#[test]
fn both_kinds() {
    let dir = folder();
    let service = Service::new();
    let users = path(dir.path(), "users");
    let registry = start_with(&dir, &service, &["--htpasswd", &users]);
    assert_eq!(get_as(&registry, Some(&user("owner")), "/v2/").status, 200);
    assert_eq!(get_as(&registry, Some(&service.token(&json!([]))), "/v2/").status, 200);
    assert_eq!(challenge(&get_as(&registry, None, "/v2/")), REALM);
    let wrong = get_as(&registry, Some("Basic YTpi"), "/v2/");
    assert_eq!(challenge(&wrong), "Basic realm=\"registry\"");
    // Whom the service calls so is not the user of that name.
    let reply = get_as(&registry, Some(&service.token(&json!([]))), "/v2/team/app/tags/list");
    assert_eq!(reply.status, 401);
}

#[test]
fn flags_that_need_each_other() {
    let dir = TempDir::new().expect("a temporary folder");
    let refused = |arguments: &[&str]| {
        let output = Registry::command(dir.path(), arguments).output().expect("it ends");
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let realm =
        ["--token-realm", "https://auth.test", "--token-service", "x", "--token-issuer", "y"];
    for (arguments, part) in [
        (realm[..2].to_vec(), "--token-service"),
        (realm[2..].to_vec(), "--token-realm"),
        (realm.to_vec(), "--token-certs or --token-jwks"),
        ([&realm[..], &["--token-jwks", "/does/not/exist"]].concat(), "/does/not/exist"),
        (
            ["--token-realm", "a\"b"]
                .into_iter()
                .chain(realm[2..].iter().copied())
                .chain(["--token-certs", "x"])
                .collect(),
            "quotes",
        ),
    ] {
        let message = refused(&arguments);
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
}
