//! Who may do what by the first API: images belong to no repository, so what one may
//! read of them follows from the repositories that have them, and from what one
//! has pushed.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use tempfile::TempDir;

use crate::client::{Image, at, chain, gzip, list};
use crate::common::tar::Tar;
use crate::common::{Registry, Reply};

const RULES: &str = r#"
[[rules]]
users = ["owner"]
repositories = ["team/**", "open/**"]
rights = ["pull", "push", "delete"]

[[rules]]
users = ["reader"]
repositories = ["team/**"]
rights = ["pull"]

[[rules]]
users = ["stranger"]
repositories = ["other/**"]
rights = ["pull", "push", "delete"]

[[rules]]
groups = ["anonymous"]
repositories = ["open/**"]
rights = ["pull"]
"#;

struct Server {
    registry: Registry,
    _temp: TempDir,
}

/// Three users; everybody may pull `open/**`.
fn server() -> Server {
    let temp = TempDir::new().expect("a folder");
    let rules = temp.path().join("rules.toml");
    fs::write(&rules, RULES).expect("a file");
    let rules = rules.to_str().expect("text");
    let mut arguments = vec!["--acl", rules, "--anonymous", "pull"];
    for user in ["owner:owner", "reader:reader", "stranger:stranger"] {
        arguments.extend(["--user", user]);
    }
    let registry = Registry::start(&arguments);
    // Before the catalog is complete, nobody can tell what an id is not.
    let owner = [("Authorization", "Basic b3duZXI6b3duZXI=")];
    let catalog = registry.send("GET", "/v2/_catalog", &owner, b"");
    assert_eq!(catalog.status, 200);
    Server { registry, _temp: temp }
}

impl Server {
    /// `who`: a user, or `Token …`, or nobody.
    fn send(&self, who: &str, method: &str, path: &str, body: &[u8]) -> Reply {
        self.send_with(who, method, path, &[], body)
    }

    fn send_with(
        &self,
        who: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let login = match who {
            "" => None,
            token if token.starts_with("Token ") => Some(token.to_owned()),
            user => Some(format!("Basic {}", BASE64.encode(format!("{user}:{user}")))),
        };
        let mut headers = headers.to_vec();
        headers.extend(login.as_ref().map(|login| ("Authorization", login.as_str())));
        self.registry.send(method, path, &headers, body)
    }

    fn get(&self, who: &str, path: &str) -> Reply {
        self.send(who, "GET", path, b"")
    }

    /// The statuses of the three steps.
    fn push_image(&self, who: &str, image: &Image) -> [u16; 3] {
        let checksum = image.checksum();
        let checksum = [("X-Docker-Checksum-Payload", checksum.as_str())];
        let put = |part: &str, headers: &[(&str, &str)], body: &[u8]| {
            self.send_with(who, "PUT", &at(&image.id, part), headers, body).status
        };
        [
            put("json", &[], &image.json),
            put("layer", &[], &image.layer),
            put("checksum", &checksum, b""),
        ]
    }

    fn tag(&self, who: &str, repository: &str, tag: &str, id: &str) -> u16 {
        let path = format!("/v1/repositories/{repository}/tags/{tag}");
        let body = json!(id).to_string();
        self.send(who, "PUT", &path, body.as_bytes()).status
    }

    #[track_caller]
    fn push(&self, who: &str, repository: &str, tag: &str, images: &[Image]) {
        for image in images {
            if self.get(who, &at(&image.id, "json")).status != 200 {
                assert_eq!(self.push_image(who, image), [200; 3]);
            }
        }
        let top = &images.last().expect("an image").id;
        assert_eq!(self.tag(who, repository, tag, top), 200);
    }
}

/// Every route for each of them.
#[test]
fn matrix() {
    let server = server();
    let images = chain("a");
    server.push("owner", "team/old", "1", &images);
    let top = &images[2].id;
    let named = |rest: &str| format!("/v1/repositories/team/old{rest}");
    let list = list(&images);
    let id = json!(top).to_string();
    let public = br#"{"access":"public"}"#;
    let new = Image::new("new", None, Tar::default().finish());
    // Of owner, reader, stranger, nobody.
    for (method, path, body, want) in [
        ("GET", "/".into(), &b""[..], [200, 200, 200, 200]),
        ("GET", "/v1/_ping".into(), b"", [200, 200, 200, 200]),
        ("GET", "/v1/users".into(), b"", [200, 200, 200, 401]),
        ("POST", "/v1/users/".into(), b"{}", [201, 201, 201, 401]),
        ("PUT", "/v1/users/x/".into(), b"{}", [204, 204, 204, 401]),
        ("GET", "/v1/search?q=old".into(), b"", [200, 200, 200, 200]),
        ("GET", "/v1/repositories".into(), b"", [200, 200, 200, 200]),
        ("PUT", named("/"), &list, [200, 403, 404, 401]),
        ("GET", named("/images"), b"", [200, 200, 404, 401]),
        ("PUT", named("/images"), &list, [204, 403, 404, 401]),
        ("PUT", named("/auth"), b"", [200, 403, 404, 401]),
        ("GET", named("/tags"), b"", [200, 200, 404, 401]),
        ("GET", named("/tags/1"), b"", [200, 200, 404, 401]),
        ("PUT", named("/tags/1"), id.as_bytes(), [200, 403, 404, 401]),
        ("GET", named("/tags/1/json"), b"", [200, 200, 404, 401]),
        ("GET", named("/json"), b"", [200, 200, 404, 401]),
        ("GET", named("/properties"), b"", [200, 200, 404, 401]),
        ("PUT", named("/properties"), public, [200, 403, 404, 401]),
        ("GET", at(top, "json"), b"", [200, 200, 404, 404]),
        ("GET", at(top, "layer"), b"", [200, 200, 404, 404]),
        ("HEAD", at(top, "layer"), b"", [200, 200, 404, 404]),
        ("GET", at(top, "ancestry"), b"", [200, 200, 404, 404]),
        ("GET", at(top, "files"), b"", [200, 200, 404, 404]),
        ("GET", at(top, "tree/"), b"", [200, 200, 404, 404]),
        ("GET", at(&images[0].id, "json"), b"", [200, 200, 404, 404]),
        ("PUT", at(&new.id, "json"), &new.json, [200, 403, 200, 401]),
        ("PUT", at(&new.id, "layer"), &new.layer, [200, 403, 200, 401]),
        ("PUT", at(&new.id, "checksum"), b"", [412, 403, 412, 401]),
        ("DELETE", named("/images"), b"", [204, 403, 404, 401]),
        ("DELETE", named("/tags/none"), b"", [404, 403, 404, 401]),
        // Last for each of them, and the owner's last of all.
        ("DELETE", named("/tags"), b"", [0, 403, 404, 401]),
        ("DELETE", named("/"), b"", [200, 403, 404, 401]),
    ] {
        for (who, want) in ["owner", "reader", "stranger", ""].into_iter().zip(want).rev() {
            if want > 0 {
                let reply = server.send(who, method, &path, body);
                let text = reply.text();
                assert_eq!(reply.status, want, "{who:?}: {method} {path}: {text}");
            }
        }
    }
}

/// What one may not see is not in lists, and its answers are those of what does not
/// exist.
#[test]
fn hidden() {
    let server = server();
    let images = chain("a");
    server.push("owner", "team/old", "1", &images);
    let found = |who: &str| server.get(who, "/v1/search").json()["num_results"].clone();
    assert_eq!([found("reader"), found("stranger"), found("")], [1, 0, 0]);
    let all = |who: &str| server.get(who, "/v1/repositories").json();
    assert_eq!(all("reader"), json!({"team/old:1": images[2].id}));
    assert_eq!(all("stranger"), json!({}));
    let absent = "0".repeat(64);
    for part in ["json", "layer", "ancestry", "files"] {
        let [hidden, absent] = [&images[2].id, &absent].map(|id| {
            let text = server.get("stranger", &at(id, part)).text();
            text.replace(id.as_str(), "ID")
        });
        assert_eq!(hidden, absent, "{part}");
    }

    // Neither as a parent nor for a tag.
    let child = Image::new("child", Some(&images[2]), Tar::default().finish());
    assert_eq!(server.push_image("stranger", &child)[0], 400);
    assert_eq!(server.tag("stranger", "other/a", "1", &images[2].id), 404);
    assert_eq!(server.get("stranger", "/v1/repositories/other/a/tags").status, 404);

    // Who has the same image may push it, and then use it; who has another may not
    // under this id, and changes nothing.
    let base = &images[0];
    let other = Image { layer: gzip(&Tar::default().file("evil", b"x").finish()), ..base.clone() };
    assert_eq!(server.push_image("stranger", &other), [200, 200, 409]);
    assert_eq!(server.get("stranger", &at(&base.id, "json")).status, 404);
    assert_eq!(server.get("owner", &at(&base.id, "layer")).body, base.layer);
    assert_eq!(server.push_image("stranger", base), [200; 3]);
    // To have pushed it is not enough to read it; a repository has to hold it.
    assert_eq!(server.get("stranger", &at(&base.id, "json")).status, 200);
    assert_eq!(server.get("stranger", &at(&base.id, "layer")).status, 404);
    assert_eq!(server.tag("stranger", "other/a", "1", &base.id), 200);
    assert_eq!(server.get("stranger", &at(&base.id, "layer")).body, base.layer);
    assert_eq!(server.get("stranger", &at(&images[1].id, "json")).status, 404);
}

/// Two push under one id: each sees what is his own, until one was first.
#[test]
fn pushed_by_two() {
    let server = server();
    let [mine, yours] = ["mine", "yours"]
        .map(|text| Image::new("same id", None, gzip(&Tar::default().file(text, b"").finish())));
    let put = |who: &str, image: &Image, part: &str, body: &[u8]| {
        let checksum = image.checksum();
        let headers = [("X-Docker-Checksum-Payload", checksum.as_str())];
        server.send_with(who, "PUT", &at(&image.id, part), &headers, body).status
    };
    assert_eq!(put("owner", &mine, "json", &mine.json), 200);
    assert_eq!(put("stranger", &yours, "layer", &yours.layer), 404);
    assert_eq!(put("stranger", &yours, "json", &yours.json), 200);
    assert_eq!(put("owner", &mine, "layer", &mine.layer), 200);
    assert_eq!(put("stranger", &yours, "checksum", b""), 409);
    assert_eq!(put("stranger", &yours, "layer", &yours.layer), 200);
    // A wrong end of his does not touch the other's.
    assert_eq!(put("stranger", &mine, "checksum", b""), 400);
    assert_eq!(put("owner", &mine, "checksum", b""), 200);
    assert_eq!(server.get("stranger", &at(&mine.id, "json")).status, 404);
    assert_eq!(server.get("reader", &at(&mine.id, "json")).status, 404, "no tag yet");
    assert_eq!(server.tag("owner", "team/old", "1", &mine.id), 200);
    assert_eq!(server.get("reader", &at(&mine.id, "layer")).body, mine.layer);
}

/// The way Docker 1 goes: a password once, then tokens.
#[test]
fn by_tokens() {
    let server = server();
    let images = chain("a");
    let token = |who: &str, method: &str, path: &str, body: &[u8]| {
        let reply = server.send(who, method, path, body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        format!("Token {}", reply.header("x-docker-token").expect("a token"))
    };
    let write = token("owner", "PUT", "/v1/repositories/team/old/", &list(&images));
    server.push(&write, "team/old", "1", &images);
    let elsewhere = server.tag(&write, "open/new", "1", &images[2].id);
    assert_eq!(elsewhere, 404, "another repository");
    let read = token("reader", "GET", "/v1/repositories/team/old/images", b"");
    for image in &images {
        assert_eq!(server.get(&read, &at(&image.id, "json")).body, image.json);
        assert_eq!(server.get(&read, &at(&image.id, "layer")).body, image.layer);
    }
    let other = Image::new("other", None, Tar::default().finish());
    assert_eq!(server.push_image(&read, &other), [403; 3]);
    assert_eq!(server.tag(&read, "team/old", "2", &images[2].id), 403);
    let read = token("owner", "GET", "/v1/repositories/team/old/images", b"");
    assert_eq!(server.tag(&read, "team/old", "2", &images[2].id), 403, "to read only");
    let forged = write.replace("team/old", "open/old");
    assert_eq!(server.get(&forged, "/v1/repositories/team/old/tags").status, 401);
}

/// A private repository is none for those who have not logged in.
#[test]
fn private() {
    let server = server();
    let images = chain("a");
    server.push("owner", "open/app", "1", &images);
    let path = "/v1/repositories/open/app/properties";
    let layer = at(&images[0].id, "layer");
    for private in [true, false, true] {
        let access = if private { "private" } else { "public" };
        let body = json!({"access": access}).to_string();
        assert_eq!(server.send("owner", "PUT", path, body.as_bytes()).status, 200);
        let [named, found] = if private { [401, 404] } else { [200, 200] };
        for (path, want) in [
            ("/v1/repositories/open/app/tags", named),
            ("/v1/repositories/open/app/images", named),
            ("/v2/open/app/manifests/1", named),
            ("/v2/open/app/tags/list", named),
            (&layer, found),
            (&at(&images[0].id, "tree/"), found),
        ] {
            assert_eq!(server.get("", path).status, want, "{access}: {path}");
            assert_eq!(server.get("owner", path).status, 200, "{access}: {path}");
        }
        let search = server.get("", "/v1/search").json();
        assert_eq!(search["num_results"], u64::from(!private));
        let catalog = server.get("", "/v2/_catalog").json();
        let listed = catalog["repositories"].as_array().map(Vec::len);
        assert_eq!(listed, Some(usize::from(!private)));
    }
}
