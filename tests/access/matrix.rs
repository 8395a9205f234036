//! Every route, with every method it takes, for every kind of user. The routes are
//! those of docs/http-api.md, so one that is documented and not listed here fails.

use std::collections::BTreeSet;

use crate::common::{OCI_MANIFEST, Registry, Reply};
use crate::support::{Pushed, folder, get_as, push, send_as, start, user};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Right {
    Pull,
    Push,
    Delete,
    /// Everybody's, without even a look at who it is.
    Nobodys,
    /// Whoever has logged in, whatever he may do; what he may not see is left out.
    Anybodys,
}
use Right::{Anybodys, Delete, Nobodys, Pull, Push};

/// A request. In its path and body `{…}` stands for what was pushed.
struct Case {
    /// The route as docs/http-api.md has it, without its query.
    route: &'static str,
    method: &'static str,
    path: &'static str,
    body: &'static str,
    right: Right,
    /// The status where it is allowed.
    status: u16,
    /// And where the repository does not exist. `0`: it is made.
    absent: u16,
}

const fn case(
    route: &'static str,
    method: &'static str,
    path: &'static str,
    right: Right,
    status: u16,
    absent: u16,
) -> Case {
    Case { route, method, path, body: "", right, status, absent }
}

const REPOSITORY: &str = "team/app";

const CASES: &[Case] = &[
    case("/healthz", "GET", "/healthz", Nobodys, 200, 200),
    case("/readyz", "GET", "/readyz", Nobodys, 200, 200),
    case("/v2/", "GET", "/v2/", Anybodys, 200, 200),
    case("/v2/_catalog", "GET", "/v2/_catalog", Anybodys, 200, 200),
    case("/v2/_query/find", "GET", "/v2/_query/find?name=app", Anybodys, 200, 200),
    Case {
        body: "name=app",
        ..case("/v2/_query/find", "POST", "/v2/_query/find", Anybodys, 200, 200)
    },
    case("/v2/_query/diff", "GET", "/v2/_query/diff?a={%name}:1&b={%name}:1", Pull, 200, 404),
    case("/v2/_query/waste", "GET", "/v2/_query/waste?image={%name}:1", Pull, 200, 404),
    case("/v2/_query/grep", "GET", "/v2/_query/grep?pattern=x", Anybodys, 200, 200),
    case("/v2/_query/layers", "GET", "/v2/_query/layers?image={%name}:1", Pull, 200, 404),
    case("/v2/_query/layers", "GET", "/v2/_query/layers", Anybodys, 200, 200),
    case("/v2/_query/tags", "GET", "/v2/_query/tags?repository={%name}", Pull, 200, 404),
    case("/v2/_query/usage", "GET", "/v2/_query/usage", Anybodys, 200, 200),
    case("/v2/_query/image", "GET", "/v2/_query/image?image={%name}:1", Pull, 200, 404),
    case("/v2/_query/image", "GET", "/v2/_query/image?image={prefix}", Pull, 200, 404),
    case("/v2/NAME/_index/DIGEST", "POST", "/v2/{name}/_index/{layer}", Pull, 200, 404),
    case("/v2/NAME/_index/DIGEST", "POST", "/v2/{name}/_index/{layer}?force=1", Push, 200, 404),
    // A GET has no end; tests/events has what it leaves out.
    case("/v1/events", "HEAD", "/v1/events", Anybodys, 200, 200),
    case("/v2/NAME/tags/list", "GET", "/v2/{name}/tags/list", Pull, 200, 404),
    case("/v2/NAME/manifests/REF", "GET", "/v2/{name}/manifests/1", Pull, 200, 404),
    case("/v2/NAME/manifests/REF", "HEAD", "/v2/{name}/manifests/1", Pull, 200, 404),
    case("/v2/NAME/manifests/REF", "GET", "/v2/{name}/manifests/{manifest}", Pull, 200, 404),
    Case {
        body: "{manifest_bytes}",
        ..case("/v2/NAME/manifests/REF", "PUT", "/v2/{name}/manifests/new", Push, 201, 0)
    },
    Case {
        body: "{manifest_bytes}",
        ..case(
            "/v2/NAME/manifests/DIGEST",
            "PUT",
            "/v2/{name}/manifests/{manifest}?tag=a&tag=b",
            Push,
            201,
            0,
        )
    },
    case("/v2/NAME/manifests/REF", "DELETE", "/v2/{name}/manifests/1", Delete, 202, 404),
    case("/v2/NAME/manifests/REF", "DELETE", "/v2/{name}/manifests/{manifest}", Delete, 202, 404),
    // Nothing refers to what does not exist.
    case("/v2/NAME/referrers/DIGEST", "GET", "/v2/{name}/referrers/{manifest}", Pull, 200, 200),
    case(
        "/v2/NAME/referrers/DIGEST",
        "GET",
        "/v2/{name}/referrers/{manifest}?artifactType=x",
        Pull,
        200,
        200,
    ),
    case("/v2/NAME/blobs/DIGEST", "GET", "/v2/{name}/blobs/{layer}", Pull, 200, 404),
    case("/v2/NAME/blobs/DIGEST", "HEAD", "/v2/{name}/blobs/{layer}", Pull, 200, 404),
    case("/v2/NAME/blobs/DIGEST", "DELETE", "/v2/{name}/blobs/{layer}", Delete, 202, 404),
    case("/v2/NAME/blobs/uploads/", "POST", "/v2/{name}/blobs/uploads/", Push, 202, 0),
    case(
        "/v2/NAME/blobs/uploads/",
        "POST",
        "/v2/{name}/blobs/uploads/?digest-algorithm=sha512",
        Push,
        202,
        0,
    ),
    case(
        "/v2/NAME/blobs/uploads/",
        "POST",
        "/v2/{name}/blobs/uploads/?mount={layer}&from={name}",
        Push,
        201,
        0,
    ),
    case("/v2/NAME/blobs/uploads/UUID", "GET", "/v2/{name}/blobs/uploads/{upload}", Push, 204, 404),
    case(
        "/v2/NAME/blobs/uploads/UUID",
        "HEAD",
        "/v2/{name}/blobs/uploads/{upload}",
        Push,
        204,
        404,
    ),
    Case {
        body: "x",
        ..case(
            "/v2/NAME/blobs/uploads/UUID",
            "PATCH",
            "/v2/{name}/blobs/uploads/{upload}",
            Push,
            202,
            404,
        )
    },
    Case {
        body: "x",
        ..case(
            "/v2/NAME/blobs/uploads/UUID",
            "PUT",
            "/v2/{name}/blobs/uploads/{upload}?digest={x}",
            Push,
            201,
            404,
        )
    },
    case(
        "/v2/NAME/blobs/uploads/UUID",
        "DELETE",
        "/v2/{name}/blobs/uploads/{upload}",
        Push,
        204,
        404,
    ),
    case("/v1/images/ID/tree/DIR", "GET", "/v1/images/{%name}:1/tree/etc", Pull, 200, 404),
    case("/v1/images/ID/tree/DIR", "GET", "/v1/images/{hex}/tree/etc", Pull, 200, 404),
    case(
        "/v1/images/ID/tree/DIR",
        "HEAD",
        "/v1/images/{%name}@{manifest}/tree/etc",
        Pull,
        200,
        404,
    ),
    case("/v1/images/ID/tree/DIR", "GET", "/v1/images/{hex}/tree/etc?deleted=1", Pull, 200, 404),
    case("/v1/images/ID/tree/DIR", "GET", "/v1/images/{hex}/tree/?layer={layer}", Pull, 200, 404),
    case(
        "/v1/images/ID/blobs/FILE",
        "GET",
        "/v1/images/{%name}:1/blobs/etc/app?layer={layer}",
        Pull,
        200,
        404,
    ),
    case("/v1/images/ID/tar/DIR", "GET", "/v1/images/{hex}/tar/?layer={layer}", Pull, 200, 404),
    case(
        "/v2/NAME/_files/tree/REF/DIR",
        "GET",
        "/v2/{name}/_files/tree/1/etc?layer={layer}",
        Pull,
        200,
        404,
    ),
    case("/v1/images/ID/blobs/FILE", "GET", "/v1/images/{%name}:1/blobs/etc/app", Pull, 200, 404),
    case("/v1/images/ID/blobs/FILE", "GET", "/v1/images/{hex}/blobs/etc/app", Pull, 200, 404),
    case("/v1/images/ID/tar/DIR", "GET", "/v1/images/{%name}:1/tar/etc", Pull, 200, 404),
    case("/v1/images/ID/tar/DIR", "GET", "/v1/images/{prefix}/tar/etc", Pull, 200, 404),
    case("/v2/NAME/_files/tree/REF/DIR", "GET", "/v2/{name}/_files/tree/1/etc", Pull, 200, 404),
    case("…/blobs/REF/FILE", "GET", "/v2/{name}/_files/blobs/1/etc/app", Pull, 200, 404),
    case("…/tar/REF/DIR", "GET", "/v2/{name}/_files/tar/{manifest}/etc", Pull, 200, 404),
    case("/", "GET", "/", Nobodys, 200, 200),
    case("/ui/", "GET", "/ui/", Anybodys, 200, 200),
    case("/ui/", "GET", "/ui/?view=tree", Anybodys, 200, 200),
    case("/ui/_search", "GET", "/ui/_search?q=two+words", Anybodys, 303, 303),
    case("/ui/_find", "GET", "/ui/_find?name=app", Anybodys, 200, 200),
    case("/ui/_grep", "GET", "/ui/_grep?pattern=app", Anybodys, 200, 200),
    case("/ui/_diff", "GET", "/ui/_diff?a={name}:1&b={name}:1", Pull, 200, 404),
    case("/ui/NAME", "GET", "/ui/{name}", Pull, 200, 404),
    case("/ui/NAME", "GET", "/ui/{name}?view=manifests", Pull, 200, 404),
    case("/ui/NAME:TAG/PATH", "GET", "/ui/{name}:1/", Pull, 200, 404),
    case("/ui/NAME:TAG/PATH", "GET", "/ui/{name}:1/?view=space", Pull, 200, 404),
    case("/ui/NAME:TAG/PATH", "GET", "/ui/{name}:1/etc/app", Pull, 200, 404),
    case("/ui/NAME:TAG/PATH", "GET", "/ui/{name}:1/etc/app?raw=text", Pull, 200, 404),
    case("/ui/NAME:TAG/PATH", "GET", "/ui/{name}@{manifest}/etc/?layer={layer}", Pull, 200, 404),
    case("/ui/NAME:TAG/PATH", "GET", "/ui/{manifest}/etc/", Pull, 303, 404),
    case("/ui/_delete/NAME:TAG", "GET", "/ui/_delete/{name}:1", Delete, 200, 404),
    // A form without its token; tests/api/page.rs has those with one.
    case("/ui/_delete/NAME:TAG", "POST", "/ui/_delete/{name}:1", Delete, 403, 404),
    case("/v1/_ping", "GET", "/v1/_ping", Nobodys, 200, 200),
    case("/v1/users", "GET", "/v1/users", Anybodys, 200, 200),
    Case { body: "{}", ..case("/v1/users", "POST", "/v1/users/", Anybodys, 201, 201) },
    Case { body: "{}", ..case("/v1/users/NAME", "PUT", "/v1/users/owner/", Anybodys, 204, 204) },
    case("/v1/search", "GET", "/v1/search?q=app", Anybodys, 200, 200),
    case("/v1/repositories", "GET", "/v1/repositories", Anybodys, 200, 200),
    Case {
        body: "[]",
        ..case("/v1/repositories/NAME", "PUT", "/v1/repositories/{name}/", Push, 200, 0)
    },
    case("/v1/repositories/NAME", "DELETE", "/v1/repositories/{name}/", Delete, 200, 404),
    case("/v1/repositories/NAME/images", "GET", "/v1/repositories/{name}/images", Pull, 200, 404),
    Case {
        body: "[]",
        ..case(
            "/v1/repositories/NAME/images",
            "PUT",
            "/v1/repositories/{name}/images",
            Push,
            204,
            0,
        )
    },
    case(
        "/v1/repositories/NAME/images",
        "DELETE",
        "/v1/repositories/{name}/images",
        Delete,
        204,
        0,
    ),
    Case {
        body: "{}",
        ..case("/v1/repositories/NAME/auth", "PUT", "/v1/repositories/{name}/auth", Push, 200, 0)
    },
    case("/v1/repositories/NAME/tags", "GET", "/v1/repositories/{name}/tags", Pull, 200, 404),
    case("/v1/repositories/NAME/tags", "DELETE", "/v1/repositories/{name}/tags", Delete, 200, 404),
    case("/v1/repositories/NAME/tags/TAG", "GET", "/v1/repositories/{name}/tags/1", Pull, 200, 404),
    case(
        "/v1/repositories/NAME/tags/TAG",
        "DELETE",
        "/v1/repositories/{name}/tags/1",
        Delete,
        200,
        404,
    ),
    case("/v1/repositories/NAME/json", "GET", "/v1/repositories/{name}/json", Pull, 200, 404),
    case("…/tags/TAG/json", "GET", "/v1/repositories/{name}/tags/1/json", Pull, 200, 404),
    case(
        "/v1/repositories/NAME/properties",
        "GET",
        "/v1/repositories/{name}/properties",
        Pull,
        200,
        404,
    ),
    Case {
        body: r#"{"access": "public"}"#,
        ..case(
            "/v1/repositories/NAME/properties",
            "PUT",
            "/v1/repositories/{name}/properties",
            Push,
            200,
            0,
        )
    },
    case("/v1/images/ID/json", "GET", "/v1/images/{v1}/json", Pull, 200, 404),
    case("/v1/images/ID/layer", "GET", "/v1/images/{v1}/layer", Pull, 200, 404),
    case("/v1/images/ID/ancestry", "GET", "/v1/images/{v1}/ancestry", Pull, 200, 404),
    case("/v1/images/ID/files", "GET", "/v1/images/{v1}/files", Pull, 200, 404),
];

/// Routes with a test of their own.
const ELSEWHERE: &[&str] =
    &["/v2/token", "/v1/images/ID/checksum", "/ui/_login", "/ui/_logout", "/ui/_assets/NAME"];

/// What is said of the routes where there are three columns.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../../docs/http-api.md");
    let tables = text.split("\n\n").filter(|part| part.starts_with("| route | methods |"));
    let mut routes = BTreeSet::new();
    for line in tables.flat_map(|table| table.lines().skip(2)) {
        let cell = line.split(" | ").next().expect("a cell");
        for route in cell.trim_start_matches("| ").split(", ") {
            let route = route.trim_matches('`').split('?').next();
            routes.insert(route.expect("a route").to_owned());
        }
    }
    assert!(routes.len() > 30, "{routes:?}");
    routes
}

#[test]
fn every_documented_route_is_here() {
    let here = CASES.iter().map(|case| case.route).chain(ELSEWHERE.iter().copied());
    let here: BTreeSet<String> = here.map(str::to_owned).collect();
    let missing: Vec<_> = documented().difference(&here).cloned().collect();
    assert_eq!(missing, [""; 0]);
}

fn fill(text: &str, name: &str, pushed: &Pushed, upload: &str) -> String {
    text.replace("{name}", name)
        .replace("{%name}", &name.replace('/', "%2F"))
        .replace("{manifest}", &pushed.manifest.to_string())
        .replace("{layer}", &pushed.layer.to_string())
        .replace("{hex}", &pushed.config.hex())
        .replace("{prefix}", &pushed.manifest.hex()[..16])
        .replace("{manifest_bytes}", &pushed.manifest_bytes)
        .replace("{v1}", &pushed.v1)
        .replace("{upload}", upload)
        .replace("{x}", &registry::oci::Algorithm::Sha256.digest(b"x").to_string())
}

/// The request, by somebody, with everything there that it may need.
fn attempt(
    registry: &Registry,
    pushed: &Pushed,
    case: &Case,
    who: Option<&str>,
    name: &str,
) -> Reply {
    if case.method == "DELETE" {
        // By a request before, maybe.
        push(registry, REPOSITORY, "app");
    }
    let location = if case.path.contains("{upload}") {
        registry.start_upload(REPOSITORY)
    } else {
        String::new()
    };
    let upload = location.rsplit('/').next().expect("a part");
    let [path, body] = [case.path, case.body].map(|text| fill(text, name, pushed, upload));
    let headers: &[(&str, &str)] = match case.right {
        Push if !case.body.is_empty() && case.path.contains("manifests") => {
            &[("Content-Type", OCI_MANIFEST)]
        }
        _ => &[],
    };
    let mut reply = send_as(registry, who, case.method, &path, headers, body.as_bytes());
    // Another one each time.
    if !upload.is_empty() && reply.text().contains(upload) {
        reply.body = reply.text().replace(upload, "UPLOAD").into_bytes();
    }
    reply
}

/// Everything of an answer that somebody could learn from.
fn told(reply: &Reply, name: &str) -> (u16, Vec<(String, String)>, String) {
    let mut headers = reply.headers.clone();
    headers.retain(|(key, _)| !["x-request-id", "date", "set-cookie"].contains(&key.as_str()));
    // Every page with a form has another token.
    let token = |text: &str| {
        let token = text.split("name=\"token\" value=\"").nth(1)?.split('"').next()?;
        Some(token.to_owned())
    };
    let (token, id) = (token(&reply.text()), reply.header("x-request-id").expect("an id"));
    let clean = |text: &str| {
        let text = text.replace(name, "NAME").replace(&name.replace('/', "%2F"), "NAME");
        let text = text.replace(id, "ID");
        token.iter().fold(text, |text, token| text.replace(token, "TOKEN"))
    };
    let headers = headers
        .into_iter()
        .filter(|(key, _)| key != "content-length")
        .map(|(key, value)| (key, clean(&value)))
        .collect();
    (reply.status, headers, clean(&reply.text()))
}

#[test]
fn every_route_for_everybody() {
    let dir = folder();
    let registry = start(dir.path(), &["--index-jobs", "1"]);
    for case in CASES {
        let pushed = push(&registry, REPOSITORY, "app");
        let what = format!("{} {}", case.method, case.path);
        let allowed: &[&str] = match case.right {
            Nobodys | Anybodys => &["owner", "reader", "writer", "deleter", "stranger"],
            Pull => &["owner", "reader", "writer", "deleter"],
            Push => &["owner", "writer"],
            Delete => &["owner", "deleter"],
        };
        for name in crate::support::USERS {
            let reply = attempt(&registry, &pushed, case, Some(&user(name)), REPOSITORY);
            let text = reply.text();
            if allowed.contains(&name) {
                assert_eq!(reply.status, case.status, "{what} by {name}: {text}");
            } else if name == "stranger" {
                hidden(&registry, &pushed, case, &reply, &what);
            } else {
                assert_eq!(reply.status, 403, "{what} by {name}: {text}");
                assert_eq!(reply.header("www-authenticate"), None);
                if case.method != "HEAD" && case.path.starts_with("/v2") {
                    assert_eq!(reply.code(), "DENIED", "{what} by {name}");
                }
            }
        }
        for (who, why) in [
            (None, "nobody"),
            (Some("Basic"), "no credentials"),
            (Some("Bearer nonsense"), "no token of ours"),
            (Some("Digest username=\"owner\""), "no scheme of ours"),
        ] {
            let reply = attempt(&registry, &pushed, case, who, REPOSITORY);
            if case.right == Nobodys {
                assert_eq!(reply.status, case.status, "{what} by {why}");
                continue;
            }
            assert_eq!(reply.status, 401, "{what} by {why}: {}", reply.text());
            let challenge = if case.path.starts_with("/ui/") {
                "Cookie realm=\"registry\", form-action=\"/ui/_login\", cookie-name=registry-session"
            } else {
                "Basic realm=\"registry\""
            };
            assert_eq!(reply.header("www-authenticate"), Some(challenge), "{what} by {why}");
            // What is there and what is not look alike.
            let absent = attempt(&registry, &pushed, case, who, "team/none");
            assert_eq!(told(&reply, REPOSITORY), told(&absent, "team/none"), "{what} by {why}");
        }
    }
}

/// Who may not see a repository cannot tell it from one that does not exist,
/// neither where he may see nothing nor where he may do everything.
fn hidden(registry: &Registry, pushed: &Pushed, case: &Case, reply: &Reply, what: &str) {
    let stranger = user("stranger");
    let seen = told(reply, REPOSITORY);
    let unseen = attempt(registry, pushed, case, Some(&stranger), "team/none");
    assert_eq!(seen, told(&unseen, "team/none"), "{what}");
    if case.absent == 0 {
        assert_eq!(reply.status, 404, "{what}: {}", reply.text());
        return;
    }
    let absent = attempt(registry, pushed, case, Some(&stranger), "other/none");
    assert_eq!(seen, told(&absent, "other/none"), "{what}");
    assert_eq!(reply.status, case.absent, "{what}: {}", reply.text());
}

#[test]
fn pulls_without_a_login() {
    let dir = folder();
    let registry = start(dir.path(), &["--anonymous", "pull"]);
    let public = push(&registry, "public/base", "base");
    push(&registry, REPOSITORY, "app");
    for (path, status) in [
        ("/v2/public/base/manifests/1".to_owned(), 200),
        (format!("/v2/public/base/blobs/{}", public.layer), 200),
        ("/v2/public/base/tags/list".to_owned(), 200),
        ("/v1/images/public%2Fbase:1/tree/etc".to_owned(), 200),
        (format!("/v1/images/{}/blobs/etc/base", public.config), 200),
        ("/v2/public/none/tags/list".to_owned(), 404),
        ("/v2/team/app/manifests/1".to_owned(), 401),
        ("/v2/team/none/manifests/1".to_owned(), 401),
        ("/v1/images/team%2Fapp:1/tree/etc".to_owned(), 401),
        (format!("/v2/team/app/blobs/{}", public.layer), 401),
    ] {
        let reply = get_as(&registry, None, &path);
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
    }
    let catalog = get_as(&registry, None, "/v2/_catalog").json();
    assert_eq!(catalog["repositories"], serde_json::json!(["public/base"]));
    for (method, path) in [
        ("POST", "/v2/public/base/blobs/uploads/".to_owned()),
        ("DELETE", "/v2/public/base/manifests/1".to_owned()),
        ("DELETE", format!("/v2/public/base/blobs/{}", public.layer)),
    ] {
        let reply = send_as(&registry, None, method, &path, &[], b"");
        assert_eq!(reply.status, 401, "{method} {path}");
    }
    // Rules for who is anonymous hold for users too.
    let stranger = user("stranger");
    let reply = get_as(&registry, Some(&stranger), "/v2/public/base/manifests/1");
    assert_eq!(reply.status, 200);
}
