//! What can be listed, names, properties, and what browsers need.

use serde_json::{Value, json};

use crate::client::{at, chain, ok, pull, push, put_tag};
use crate::common::Registry;

#[test]
fn tags() {
    let registry = Registry::start(&[]);
    let images = chain("a");
    push(&registry, "team/old", "1", &images);
    let [base, top] = [&images[0].id, &images[2].id];
    ok(put_tag(&registry, "team/old", "base", base), "tag");
    let path = "/v1/repositories/team/old/tags";
    for path in [path.to_owned(), format!("{path}/")] {
        assert_eq!(registry.get(&path).json(), json!({"1": top, "base": base}));
    }
    for path in [format!("{path}/1"), format!("{path}/1/")] {
        let reply = registry.get(&path);
        assert_eq!(reply.text(), format!("\"{top}\""));
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    let all = registry.get("/v1/repositories");
    assert_eq!(all.json(), json!({"team/old:1": top, "team/old:base": base}));

    let about = registry.get(&format!("{path}/1/json")).json();
    assert!(about["last_update"].as_u64().is_some_and(|time| time > 1_700_000_000));
    assert_eq!(about["docker_version"], "1.3.0");
    assert_eq!((&about["arch"], &about["os"]), (&json!("amd64"), &json!("linux")));
    // A repository's is that of `latest`.
    let about = registry.get("/v1/repositories/team/old/json").json();
    assert_eq!(about["last_update"], Value::Null);
    ok(put_tag(&registry, "team/old", "latest", top), "tag");
    let about = registry.get("/v1/repositories/team/old/json").json();
    assert!(about["last_update"].is_u64(), "{about}");

    for path in [
        "/v1/repositories/team/other/tags",
        "/v1/repositories/team/other/tags/1",
        "/v1/repositories/team/other/tags/1/json",
        "/v1/repositories/team/other/json",
        "/v1/repositories/team/other/images",
        "/v1/repositories/team/other/properties",
        "/v1/repositories/team/old/tags/2",
    ] {
        assert_eq!(registry.get(path).status, 404, "{path}");
    }

    // Deleted one by one, and all together.
    assert_eq!(registry.delete(&format!("{path}/base")).status, 200);
    assert_eq!(registry.delete(&format!("{path}/base")).status, 404);
    assert_eq!(registry.get(&format!("{path}/base")).status, 404);
    assert_eq!(registry.delete("/v1/repositories/team/old/images").status, 204);
    assert_eq!(registry.get(&format!("{path}/1")).status, 200);
    for delete in ["/v1/repositories/team/old/", path] {
        ok(put_tag(&registry, "team/old", "1", top), "the images are there still");
        assert_eq!(registry.delete(delete).status, 200, "{delete}");
        assert_eq!(registry.get(path).json(), json!({}));
        assert_eq!(registry.get("/v2/team/old/manifests/1").status, 404);
    }
    assert_eq!(registry.delete("/v1/repositories/nobody").status, 404);
}

/// Both APIs push to one namespace, and see it.
#[test]
fn search_and_catalog() {
    let registry = Registry::start(&[]);
    let images = chain("a");
    for n in 0..30 {
        push(&registry, &format!("team/old-{n:02}"), "1", &images);
    }
    registry.push_image("team/new", "1", "x");
    let search = |query: &str| registry.get(&format!("/v1/search{query}")).json();
    let names = |page: &Value| -> Vec<String> {
        let results = page["results"].as_array().expect("results").iter();
        results.map(|found| found["name"].as_str().expect("a name").to_owned()).collect()
    };
    let found = search("?q=OLD-0");
    assert_eq!(found["query"], "OLD-0");
    assert_eq!(found["num_results"], 10);
    assert_eq!(names(&found).len(), 10);
    assert_eq!(found["results"][0], json!({"name": "team/old-00", "description": ""}));
    let found = search("?q=old&page=2&n=20");
    assert_eq!((&found["num_results"], &found["num_pages"]), (&json!(30), &json!(2)));
    assert_eq!(names(&found)[0], "team/old-20");
    assert_eq!(names(&found).len(), 10);
    assert_eq!(names(&search("")).len(), 25);
    assert_eq!(search("")["num_results"], 31);
    assert_eq!(names(&search("?q=new")), ["team/new"]);
    assert_eq!(search("?q=nothing")["num_results"], 0);
    assert_eq!(names(&search("?q=old&page=99999999999999")), [""; 0]);
    for query in ["?n=0", "?n=x", "?page=-1", "?page=0"] {
        assert_eq!(registry.get(&format!("/v1/search{query}")).status, 400);
    }
    let catalog = registry.get("/v2/_catalog").json();
    assert_eq!(catalog["repositories"].as_array().map(Vec::len), Some(31));
    let tags = registry.get("/v2/team/old-07/tags/list").json();
    assert_eq!(tags, json!({"name": "team/old-07", "tags": ["1"]}));
}

/// A name without a namespace is taken as written; to read, `library/` is tried
/// where there is nothing.
#[test]
fn names_without_a_namespace() {
    let registry = Registry::start(&[]);
    let [a, b] = ["a", "b"].map(chain);
    push(&registry, "library/debian", "1", &a);
    assert_eq!(pull(&registry, "debian", "1"), a, "the fallback");
    assert_eq!(registry.get("/v1/repositories/debian/tags/1/json").status, 200);
    assert_eq!(registry.get("/v2/debian/manifests/1").status, 404, "not here");
    let deleted = registry.delete("/v1/repositories/debian/tags/1");
    assert_eq!(deleted.status, 404, "reading only");

    push(&registry, "debian", "1", &b);
    assert_eq!(pull(&registry, "debian", "1"), b, "as written");
    assert_eq!(pull(&registry, "library/debian", "1"), a);
    assert_eq!(registry.get("/v1/repositories/nothing/tags").status, 404);
}

#[test]
fn properties() {
    let registry = Registry::start(&[]);
    push(&registry, "team/old", "1", &chain("a"));
    let path = "/v1/repositories/team/old/properties";
    assert_eq!(registry.get(path).json(), json!({"access": "public"}));
    for access in ["private", "private", "public", "public"] {
        let body = json!({"access": access}).to_string();
        let reply = registry.send("PUT", path, &[], body.as_bytes());
        assert_eq!(ok(reply, access).json(), json!({"access": access}));
        assert_eq!(registry.get(path).json(), json!({"access": access}));
    }
    for body in ["", "{}", r#"{"access":"secret"}"#, r#"{"access":1}"#] {
        assert_eq!(registry.send("PUT", path, &[], body.as_bytes()).status, 400);
    }
}

#[test]
fn users_and_info() {
    let registry = Registry::start(&[]);
    let info = registry.get("/").json();
    assert_eq!(info["name"], "docker-registry-server");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert!(info["status"].is_string());
    for path in ["/v1/users", "/v1/users/"] {
        assert_eq!(registry.get(path).status, 200);
        let account = br#"{"username":"u","password":"p","email":"e"}"#;
        assert_eq!(registry.send("POST", path, &[], account).status, 201);
    }
    assert_eq!(registry.send("PUT", "/v1/users/u/", &[], b"{}").status, 204);
}

#[test]
fn browsers() {
    let registry = Registry::start(&[]);
    let images = chain("a");
    push(&registry, "a", "1", &images);
    for path in [
        "/",
        "/v1/_ping",
        "/v1/repositories/a/tags",
        "/v1/nothing",
        &at(&images[0].id, "layer"),
        &at(&images[0].id, "tree/"),
    ] {
        let reply = registry.get(path);
        assert_eq!(reply.header("access-control-allow-origin"), None, "{path}");
        assert_eq!(reply.header("access-control-allow-credentials"), None);
    }
    let asked = [("Origin", "https://example.com"), ("Access-Control-Request-Method", "PUT")];
    let reply = registry.send("OPTIONS", "/v1/repositories/a/tags/1", &asked, b"");
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("allow"), Some("GET, HEAD, PUT, DELETE, OPTIONS"));
    assert_eq!(reply.header("access-control-allow-methods"), None);
    assert_eq!(reply.header("access-control-allow-headers"), None);
    let v2 = registry.get("/v2/");
    assert_eq!(v2.header("access-control-allow-origin"), None);
}
