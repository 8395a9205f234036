//! Who hears of what.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tempfile::TempDir;

use crate::common::{
    OCI_CONFIG, OCI_MANIFEST, Registry, Reply, descriptor, eventually, image_manifest,
};
use crate::support::Listener;

const RULES: &str = r#"
[[rules]]
users = ["it's \"me\" $(id) `id`"]
repositories = ["**"]
rights = ["pull", "push", "delete"]

[[rules]]
users = ["reader"]
repositories = ["team/**"]
rights = ["pull"]

[[rules]]
users = ["stranger"]
repositories = ["other"]
rights = ["pull"]
"#;
/// As bad a name as a user may have.
const PUSHER: &str = "it's \"me\" $(id) `id`";

fn basic(name: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64.encode(format!("{name}:secret")))
}

fn send(registry: &Registry, method: &str, path: &str, body: &[u8]) -> Reply {
    let credentials = basic(PUSHER);
    let value = credentials.trim_end().split_once(": ").unwrap().1;
    let headers = [("Authorization", value), ("Content-Type", OCI_MANIFEST)];
    let reply = registry.send(method, path, &headers, body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply
}

fn push(registry: &Registry, repository: &str, tag: &str) {
    let digest = registry::oci::Algorithm::Sha256.digest(b"{}");
    send(registry, "POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), b"{}");
    let manifest = image_manifest(&descriptor(OCI_CONFIG, &digest, 2), &[]);
    send(registry, "PUT", &format!("/v2/{repository}/manifests/{tag}"), manifest.as_bytes());
}

#[test]
fn readers_hear_of_what_they_may_pull() {
    let temp = TempDir::new().unwrap();
    let rules = temp.path().join("rules");
    fs::write(&rules, RULES).unwrap();
    let users = [PUSHER, "reader", "stranger"].map(|name| format!("{name}:secret"));
    let mut arguments = vec!["--acl", rules.to_str().unwrap()];
    arguments.extend(users.iter().flat_map(|user| ["--user", user]));
    let hook = r#"printf '%s\n' "$REGISTRY_USER" > "$REGISTRY_DIR/user.new"; mv "$REGISTRY_DIR/user.new" "$REGISTRY_DIR/user""#;
    arguments.extend(["--on-image", hook]);
    let registry = Registry::start_in(temp.path(), &arguments);
    assert_eq!(registry.get("/v1/events").status, 401);

    let mut reader = Listener::with(&registry, "?type=tag", &basic("reader"));
    let mut stranger = Listener::with(&registry, "?type=tag", &basic("stranger"));
    let mut all = Listener::with(&registry, "?type=tag&repository=**", &basic(PUSHER));
    push(&registry, "team/app", "1");
    push(&registry, "other", "1");
    push(&registry, "team/app", "2");
    let tags = |listener: &mut Listener, number| -> Vec<String> {
        let events = listener.events(number);
        events.iter().map(|event| event["tag"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(tags(&mut all, 3), ["team/app:1", "other:1", "team/app:2"]);
    assert_eq!(tags(&mut reader, 2), ["team/app:1", "team/app:2"]);
    assert_eq!(tags(&mut stranger, 1), ["other:1"]);
    let user = temp.path().join("user");
    eventually("the hook ran", || user.exists());
    assert_eq!(fs::read_to_string(user).unwrap(), format!("{PUSHER}\n"));

    // What the rules take away is not heard of any more, in the streams there are.
    fs::write(&rules, RULES.replace("\"other\"", "\"none\"")).unwrap();
    registry.signal("HUP");
    eventually("the rules are in force", || {
        push(&registry, "team/app", "3");
        push(&registry, "other", "2");
        let credentials = basic("stranger");
        let value = credentials.trim_end().split_once(": ").unwrap().1;
        let path = "/v2/other/manifests/2";
        registry.send("GET", path, &[("Authorization", value)], b"").status == 404
    });
    push(&registry, "other", "secret");
    registry.signal("TERM");
    while let Some(event) = stranger.event() {
        assert_ne!(event["tag"], "other:secret");
    }
}

/// A pattern that would keep a backtracking matcher busy for ever, and the name to match it with,
/// come from different clients; neither may stop the server.
#[test]
fn patterns_are_matched_in_linear_time() {
    let registry = Registry::start(&[]);
    let query = format!("?repository=bob/{}b/x", "*a".repeat(20));
    let _readers = [(); 2].map(|()| Listener::new(&registry, &query));
    let mut listener = Listener::new(&registry, "?type=tag");
    let name = format!("bob/{}/x", "a".repeat(60));
    registry.push_image(&name, "1", "x");
    assert_eq!(listener.event().unwrap()["repository"], name);
    assert_eq!(registry.get("/healthz").status, 200);
}
