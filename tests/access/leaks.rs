//! What must not get from one repository to who may only read another.

use registry::oci::Algorithm;
use serde_json::{Value, json};

use crate::common::{OCI_CONFIG, OCI_EMPTY, OCI_LAYER, OCI_MANIFEST, descriptor, image_manifest};
use crate::support::{folder, get_as, push, send_as, start, user};

#[test]
fn content_of_other_repositories() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let secret = push(&registry, "team/app", "secret");
    push(&registry, "other/x", "x");
    let stranger = user("stranger");
    let who = Some(stranger.as_str());

    for digest in [secret.layer, secret.config] {
        let there = get_as(&registry, who, &format!("/v2/team/app/blobs/{digest}"));
        let here = get_as(&registry, who, &format!("/v2/other/x/blobs/{digest}"));
        let absent = Algorithm::Sha256.digest(b"never pushed");
        let never = get_as(&registry, who, &format!("/v2/team/app/blobs/{absent}"));
        assert_eq!((there.status, here.status, never.status), (404, 404, 404));
        let text = never.text().replace(&absent.to_string(), &digest.to_string());
        assert_eq!(there.text(), text);
    }

    // A mount gives the content to who may read it, and to nobody else.
    for (from, status, why) in [
        ("&from=team%2Fapp", 202, "from where he may not read"),
        ("&from=team%2Fnone", 202, "from what is not there"),
        ("", 202, "from anywhere"),
        ("&from=team%2Fapp&digest=", 400, "and something else broken"),
    ] {
        let path = format!("/v2/other/x/blobs/uploads/?mount={}{from}", secret.layer);
        let reply = send_as(&registry, who, "POST", &path, &[], b"");
        assert_eq!(reply.status, status, "{why}: {}", reply.text());
        assert_eq!(reply.header("docker-content-digest"), None, "{why}");
    }
    let path = format!("/v2/other/x/blobs/{}", secret.layer);
    assert_eq!(get_as(&registry, who, &path).status, 404, "nothing was mounted");

    // A manifest does not bring in the blobs that it names.
    let manifest = image_manifest(
        &descriptor(OCI_CONFIG, &secret.config, 2),
        &[descriptor(OCI_LAYER, &secret.layer, 2)],
    );
    let headers = [("Content-Type", OCI_MANIFEST)];
    let path = "/v2/other/x/manifests/stolen";
    let reply = send_as(&registry, who, "PUT", path, &headers, manifest.as_bytes());
    assert_eq!((reply.status, reply.code().as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));

    // Who may read both, and write there, mounts.
    let path = format!("/v2/other/y/blobs/uploads/?mount={}&from=team/app", secret.layer);
    assert_eq!(registry.send("POST", &path, &[], b"").status, 201);
    let writer = user("writer");
    let path = format!("/v2/team/z/blobs/uploads/?mount={}&from=team/app", secret.layer);
    let reply = send_as(&registry, Some(&writer), "POST", &path, &[], b"");
    assert_eq!(reply.status, 201);
}

/// What others have pushed changes nothing in the answer to a question, counts included.
#[test]
fn questions() {
    let dir = folder();
    let registry = start(dir.path(), &["--index-jobs", "0"]);
    let own = push(&registry, "other/x", "shared");
    let stranger = user("stranger");
    let open = format!("/v1/images/{}/tree/", own.manifest.hex());
    assert_eq!(get_as(&registry, Some(&stranger), &open).status, 200, "it is indexed");
    let queries =
        ["", "name=shared", "deleted=1", "type=f&untagged=1", "name=*a*&in=**", "name=nothing"];
    let answers = || {
        queries.map(|query| {
            let path = format!("/v2/_query/find?{query}");
            let reply = get_as(&registry, Some(&stranger), &path);
            assert_eq!(reply.status, 200, "{}", reply.text());
            reply.text()
        })
    };
    let before = answers();
    assert!(before[1].contains("other/x:1"), "{}", before[1]);
    // The same layer, and one that nothing has indexed.
    push(&registry, "team/app", "shared");
    push(&registry, "team/secret", "secret");
    assert_eq!(answers(), before);
    let reader = get_as(&registry, Some(&user("reader")), "/v2/_query/find?name=shared").text();
    assert!(reader.contains("team/app:1") && reader.contains("\"waiting_layers\":1"), "{reader}");
    assert!(!reader.contains("other/x"), "{reader}");
}

/// What others have pushed is neither shared nor counted, also if a manifest names it.
#[test]
fn usage() {
    let dir = folder();
    let registry = start(dir.path(), &["--sparse-images"]);
    let own = push(&registry, "other/x", "shared");
    let stranger = user("stranger");
    let secret = push(&registry, "team/secret", "secret");
    let manifest = image_manifest(
        &descriptor(OCI_CONFIG, &own.config, 2),
        &[descriptor(OCI_LAYER, &secret.layer, 2)],
    );
    let headers = [("Content-Type", OCI_MANIFEST)];
    let path = "/v2/other/x/manifests/guess";
    let reply = send_as(&registry, Some(&stranger), "PUT", path, &headers, manifest.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let answer = || get_as(&registry, Some(&stranger), "/v2/_query/usage").text();
    let before = answer();
    assert!(before.contains("\"tag\":\"guess\"") && !before.contains("total"), "{before}");
    push(&registry, "team/app", "shared");
    assert_eq!(answer(), before);
    let guessed = before.replace(&secret.layer.to_string(), "");
    // As if the layer did not exist.
    let absent = image_manifest(
        &descriptor(OCI_CONFIG, &own.config, 2),
        &[descriptor(OCI_LAYER, &Algorithm::Sha256.digest(b"never pushed"), 2)],
    );
    let path = "/v2/other/x/manifests/guess";
    let reply = send_as(&registry, Some(&stranger), "PUT", path, &headers, absent.as_bytes());
    assert_eq!(reply.status, 201, "{}", reply.text());
    let line = |text: &str| text.lines().find(|line| line.contains("guess")).map(str::to_owned);
    assert_eq!(line(&answer()), line(&guessed));
    let owner = get_as(&registry, Some(&user("owner")), "/v2/_query/usage").text();
    assert!(owner.contains("team/secret") && owner.contains("total"), "{owner}");
}

/// A layer is shown as one of an image's own, and not because it is somewhere.
#[test]
fn layers_of_other_repositories() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let secret = push(&registry, "team/app", "secret");
    let own = push(&registry, "other/x", "x");
    let stranger = user("stranger");
    let absent = Algorithm::Sha256.digest(b"never pushed");
    for view in ["tree", "blobs", "tar"] {
        for image in [
            "/v2/other/x/_files/VIEW/1/etc/secret".to_owned(),
            "/v1/images/other%2Fx:1/VIEW/etc/secret".to_owned(),
            format!("/v1/images/{}/VIEW/etc/secret", own.manifest),
            "/v2/team/app/_files/VIEW/1/etc/secret".to_owned(),
            format!("/v1/images/{}/VIEW/etc/secret", secret.config),
        ] {
            let of = |layer: &str| {
                let url = format!("{}?layer={layer}", image.replace("VIEW", view));
                let reply = get_as(&registry, Some(&stranger), &url);
                (reply.status, reply.text().replace(layer, ""))
            };
            let there = of(&secret.layer.to_string());
            assert_eq!(there.0, 404, "{image}");
            assert_eq!(there, of(&absent.to_string()), "{image}");
            assert_eq!(of(&secret.layer.hex()[..12]), of(&absent.hex()[..12]), "{image}");
        }
    }
}

/// Of two repositories that share a layer, lines come from the one that the user may pull from.
#[test]
fn lines_of_files() {
    let dir = folder();
    let registry = start(dir.path(), &["--index-jobs", "0"]);
    let own = push(&registry, "other/x", "shared");
    let stranger = user("stranger");
    let open = format!("/v1/images/{}/tree/", own.manifest.hex());
    assert_eq!(get_as(&registry, Some(&stranger), &open).status, 200, "it is indexed");
    let queries = ["pattern=", "pattern=.&untagged=1", "pattern=&in=**&limit=1", "pattern=no"];
    let ask = |who: &str, query: &str| {
        let path = format!("/v2/_query/grep?{query}");
        let reply = get_as(&registry, Some(who), &path);
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.text()
    };
    let answers = || queries.map(|query| ask(&stranger, query));
    let before = answers();
    assert!(before[0].contains("other/x:1"), "{}", before[0]);
    // The same layer, and one that nothing has indexed.
    push(&registry, "team/app", "shared");
    push(&registry, "team/secret", "secret");
    assert_eq!(answers(), before);
    let reader = ask(&user("reader"), "pattern=");
    assert!(reader.contains("team/app:1") && reader.contains("\"waiting_layers\":1"), "{reader}");
    assert!(!reader.contains("other/x"), "{reader}");
    let owner = ask(&user("owner"), "pattern=");
    assert!(owner.contains("team/app:1") && owner.contains("other/x:1"), "{owner}");

    // An image that may not be pulled is as one that does not exist.
    let named = |image: &str| {
        let path = format!("/v2/_query/grep?pattern=&image={image}");
        get_as(&registry, Some(&stranger), &path)
    };
    assert_eq!(named("other/x:1").status, 200);
    let [hidden, absent] = ["team/app:1", "team/nap:1"].map(named);
    assert_eq!((hidden.status, absent.status), (404, 404));
    assert_eq!(hidden.text(), absent.text().replace("team/nap", "team/app"));
}

#[test]
fn ids_and_their_beginnings() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let secret = push(&registry, "team/app", "secret");
    let stranger = user("stranger");
    let tree =
        |who: &str, id: &str| get_as(&registry, Some(who), &format!("/v1/images/{id}/tree/etc"));
    let ids = [
        secret.config.hex(),
        secret.manifest.hex(),
        secret.manifest.to_string(),
        secret.config.hex()[..12].to_owned(),
    ];
    for id in &ids {
        assert_eq!(tree(&user("reader"), id).status, 200, "{id}");
        let hidden = tree(&stranger, id);
        let (algorithm, hex) = id.split_at(id.find(':').map_or(0, |colon| colon + 1));
        let absent_id = format!("{algorithm}{}", hex.chars().rev().collect::<String>());
        let absent = tree(&stranger, &absent_id);
        assert_eq!((hidden.status, absent.status), (404, 404), "{id}");
        assert_eq!(hidden.text(), absent.text().replace(&absent_id, id), "{id}");
    }
    // The same image in both: the one is found where he may read it.
    push(&registry, "other/copy", "secret");
    for id in &ids {
        let found = tree(&stranger, id);
        assert_eq!(found.status, 200, "{id}: {}", found.text());
    }
    registry.delete(&format!("/v2/other/copy/manifests/{}", secret.manifest));
    for id in &ids {
        assert_eq!(tree(&stranger, id).status, 404, "{id}: gone from where he may read");
        assert_eq!(tree(&user("reader"), id).status, 200, "{id}");
    }
}

/// The documents of an artifact are found where the user may read them, and only there.
#[test]
fn artifacts() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let (empty, kind) = ((OCI_EMPTY, "{}"), json!({"artifactType": "application/x.test"}));
    let blobs = [("text/plain", "secret", Some("note"))];
    let push = |name: &str| registry.push_artifact(name, "note", empty, &blobs, kind.clone());
    let digest = push("team/app");
    let (reader, stranger) = (user("reader"), user("stranger"));
    let statuses = |who: &str| {
        let ids = [digest.to_string(), digest.hex(), digest.hex()[..12].to_owned()];
        let ids = ids.into_iter().chain(["team%2Fapp:note".to_owned()]);
        let mut urls: Vec<String> = ids.map(|id| format!("/v1/images/{id}/VIEW")).collect();
        urls.extend(
            ["note", &digest.to_string()].map(|name| format!("/v2/team/app/_files/VIEW/{name}")),
        );
        let views = [("tree", ""), ("blobs", "/note"), ("blobs", "/manifest.json"), ("tar", "")];
        let get = |url: &String, (view, path): (&str, &str)| {
            get_as(&registry, Some(who), &(url.replace("VIEW", view) + path)).status
        };
        urls.iter().map(|url| views.map(|view| get(url, view))).collect::<Vec<_>>()
    };
    assert_eq!(statuses(&reader), [[200; 4]; 6]);
    assert_eq!(statuses(&stranger), [[404; 4]; 6]);
    assert_eq!(push("other/app"), digest);
    // The digest leads where it may be read, the name of the other repository nowhere.
    let (found, hidden) = ([200; 4], [404; 4]);
    assert_eq!(statuses(&stranger), [found, found, found, hidden, hidden, hidden]);
    // A blob that only the other repository holds is left out.
    let path = format!("/v2/other/app/blobs/{}", Algorithm::Sha256.digest(b"secret"));
    assert_eq!(registry.delete(&path).status, 202);
    let there = get_as(&registry, Some(&stranger), "/v2/other/app/_files/tree/note/");
    assert!(there.status == 200 && !there.text().contains("/note\""), "{}", there.text());
    let url = "/v2/other/app/_files/blobs/note/note";
    assert_eq!(get_as(&registry, Some(&stranger), url).status, 404);
}

#[test]
fn lists() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    for name in ["a1", "other/1", "p1", "team/1"] {
        // Empty ones between hidden ones.
        registry.start_upload(name);
    }
    for name in
        ["other/a", "other/b", "other/c", "other/d", "other/e", "p/q", "team/a", "team/b", "zz"]
    {
        registry.push_image(name, "t", name);
    }
    let names = |who: &str, query: &str| -> (Vec<String>, Option<String>) {
        let reply = get_as(&registry, Some(who), &format!("/v2/_catalog{query}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let names = serde_json::from_value(reply.json()["repositories"].clone());
        (names.expect("names"), reply.header("link").map(str::to_owned))
    };
    let stranger = user("stranger");
    let all = ["other/a", "other/b", "other/c", "other/d", "other/e"];
    assert_eq!(names(&stranger, ""), (all.map(str::to_owned).to_vec(), None));
    assert_eq!(names(&user("reader"), "").0, ["team/a", "team/b"]);
    assert_eq!(names(&user("owner"), "").0.len(), 9);

    // Pages are as full as they can be, and the last one says so.
    let mut seen = Vec::new();
    let mut query = "?n=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let (page, next) = names(&stranger, &query);
        pages.push(page.len());
        seen.extend(page);
        let Some(next) = next else { break };
        let (_, rest) = next.split_once('?').expect("a query");
        query = format!("?{}", rest.split('>').next().expect("its end"));
        for hidden in ["team", "p/", "zz", "a1"] {
            assert!(!query.contains(hidden), "{query} names what is hidden");
        }
    }
    assert_eq!(
        (seen.as_slice(), pages.as_slice()),
        (all.map(str::to_owned).as_slice(), &[2, 2, 1][..])
    );
    assert_eq!(names(&stranger, "?n=5").1, None, "exactly all");
    assert_eq!(names(&stranger, "?last=team/a").0, [""; 0], "from a hidden name on");
    assert_eq!(names(&user("deleter"), "?n=1&last=other/a").0, ["team/a"]);
}

#[test]
fn referrers() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let secret = push(&registry, "team/app", "app");
    let copy = push(&registry, "other/app", "app");
    assert_eq!(secret.manifest, copy.manifest);
    let path = format!("/v2/other/app/manifests/{}", copy.manifest);
    let artifacts = |who: &str, repository: &str| {
        let path = format!("/v2/{repository}/referrers/{}", secret.manifest);
        let reply = get_as(&registry, Some(who), &path);
        assert_eq!(reply.status, 200);
        reply.json()["manifests"].as_array().map_or(0, Vec::len)
    };
    let (stranger, reader) = (user("stranger"), user("reader"));
    assert_eq!(artifacts(&stranger, "team/app"), 0);
    assert_eq!(artifacts(&stranger, "other/app"), 1);
    assert_eq!(artifacts(&reader, "team/app"), 1);
    assert_eq!(artifacts(&reader, "other/app"), 0);
    assert_eq!(get_as(&registry, Some(&reader), &path).status, 404);
}

#[test]
fn uploads_of_others() {
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let location = registry.start_upload("team/app");
    let id = location.rsplit('/').next().expect("an id");
    let digest = Algorithm::Sha256.digest(b"x");
    for (repository, who, status) in [
        ("other/x", "stranger", 404),
        ("team/app", "stranger", 404),
        ("team/app", "reader", 403),
        ("team/other", "writer", 404),
    ] {
        let who = user(who);
        let path = format!("/v2/{repository}/blobs/uploads/{id}");
        for (method, query) in [
            ("GET", String::new()),
            ("PATCH", String::new()),
            ("PUT", format!("?digest={digest}")),
            ("DELETE", String::new()),
        ] {
            let reply =
                send_as(&registry, Some(&who), method, &format!("{path}{query}"), &[], b"x");
            assert_eq!(reply.status, status, "{method} {repository}");
        }
    }
    let reply = registry.get(&format!("/v2/team/app/blobs/uploads/{id}"));
    assert_eq!((reply.status, reply.header("range")), (204, Some("0-0")), "as it was");
}

#[test]
fn candidates_of_a_beginning() {
    // Two configs whose digests begin alike cannot be made, so the answer is looked
    // at where a beginning is that of a manifest in two repositories.
    let dir = folder();
    let registry = start(dir.path(), &[]);
    let pushed = push(&registry, "team/app", "app");
    push(&registry, "other/app", "app");
    for (who, want) in [("stranger", "other/app"), ("reader", "team/app")] {
        let path = format!("/v1/images/{}/tree/", &pushed.manifest.hex()[..12]);
        let reply = get_as(&registry, Some(&user(who)), &path);
        assert_eq!(reply.status, 200);
        let entries: Value = reply.json();
        assert_eq!(entries[0]["path"], json!("/etc/"), "{want}");
    }
}
