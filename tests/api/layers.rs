//! One layer of an image as it is, and what an image does not show of its layers.

use std::path::Path;

use serde_json::{Value, json};

use crate::cli::{fails, printed, text};
use crate::common::tar::Tar;
use crate::common::{OCI_EMPTY, Registry, Reply};
use crate::files::{LASTING, Pushed, body, listing, paged, push};
use crate::support::{absent, headers, lasting_headers, next_page, refused, sha256};

const NAME: &str = "team/app";

fn layers() -> Vec<Vec<u8>> {
    let base = Tar::default()
        .directory("etc/")
        .file("etc/old", b"old")
        .file("etc/passwd", b"one")
        .directory("gone/")
        .directory("gone/deep/")
        .file("gone/deep/x", b"deep")
        .directory("kept/")
        .file("kept/a", b"a")
        .file("zero", b"");
    let middle = Tar::default()
        .file("etc/.wh.old", b"")
        .file("etc/passwd", b"two")
        .file(".wh.gone", b"")
        .file("kept/.wh..wh..opq", b"")
        .file("kept/b", b"b")
        .file("new/file", b"new")
        .hard_link("new/same", "new/file")
        .hard_link("same", "zero")
        .symlink("shortcut", "new/file");
    let top = Tar::default().device("zero", b'3', (0, 0)).file("etc/passwd", b"three");
    vec![base.finish(), middle.finish(), top.finish()]
}

fn registry() -> (Registry, Pushed) {
    let registry = Registry::start(&[]);
    let pushed = push(&registry, NAME, "1.4", &layers());
    (registry, pushed)
}

fn shown(entry: &Value) -> String {
    let text = |name: &str| entry[name].as_str().expect("text").to_owned();
    let mut shown = format!("{} {}", text("type"), text("path"));
    if let Some(link) = entry["linkname"].as_str() {
        shown += &format!(" -> {link}");
    }
    for mark in ["opaque", "deleted"] {
        if entry[mark] == true {
            shown += &format!(" {mark}");
        }
    }
    shown
}

fn entries(reply: &Reply) -> Vec<String> {
    listing(reply).iter().map(shown).collect()
}

const MIDDLE: [&str; 11] = [
    "directory /etc/",
    "whiteout /etc/old",
    "file /etc/passwd",
    "whiteout /gone",
    "directory /kept/ opaque",
    "file /kept/b",
    "directory /new/",
    "file /new/file",
    "file /new/same",
    "hard-link /same -> /zero",
    "symlink /shortcut -> new/file",
];

#[test]
fn a_layer() {
    let (registry, pushed) = registry();
    let [base, middle, top] = [0, 1, 2].map(|at| pushed.layers[at]);
    for image in [
        "/v1/images/team%2Fapp:1.4/tree".to_owned(),
        format!("/v1/images/{}/tree", pushed.config.hex()),
        "/v2/team/app/_files/tree/1.4".to_owned(),
    ] {
        let all = |layer: &str| registry.get(&format!("{image}/?recursive=1&layer={layer}"));
        for layer in [middle.to_string(), middle.hex(), middle.hex()[..12].to_owned()] {
            assert_eq!(entries(&all(&layer)), MIDDLE, "{layer}");
        }
        assert_eq!(
            entries(&all(&top.to_string())),
            ["directory /etc/", "file /etc/passwd", "character-device /zero",]
        );
        assert_eq!(entries(&all(&base.to_string())).len(), 9);
        let reply = registry.get(&format!("{image}/etc?layer={middle}"));
        assert_eq!(entries(&reply), MIDDLE[1..3]);
        assert_eq!(
            listing(&reply)[0],
            json!({
                "path": "/etc/old", "type": "whiteout", "size": 0, "mode": 0, "mtime": 0,
                "image": pushed.config.hex(), "uid": 0, "gid": 0, "layer": middle.to_string(),
            })
        );
        let one = registry.get(&format!("{image}/etc/old?layer={middle}"));
        assert_eq!(entries(&one), ["whiteout /etc/old"]);
        // The image as a whole is not mixed up with its layers, nor these with each other.
        let whole = registry.get(&format!("{image}/etc"));
        assert_eq!(entries(&whole), ["file /etc/passwd"]);
        for limit in [1, 2, 3, 11, 12] {
            let first = format!("{image}/?recursive=1&limit={limit}&layer={middle}");
            let paths: Vec<&str> =
                MIDDLE.iter().map(|line| line.split(' ').nth(1).expect("a path")).collect();
            assert_eq!(paged(&registry, &first, limit), paths);
        }
    }
}

#[test]
fn contents_of_layers() {
    let (registry, pushed) = registry();
    let image = format!("/v1/images/{}/blobs", pushed.manifest);
    for (layer, path, want) in [
        (0, "etc/passwd", "one"),
        (1, "etc/passwd", "two"),
        (2, "etc/passwd", "three"),
        (0, "gone/deep/x", "deep"),
        (0, "kept/a", "a"),
        (1, "new/same", "new"),
        (1, "shortcut", "new"),
        (1, "new/../shortcut", "new"),
    ] {
        let url = format!("{image}/{path}?layer={}", pushed.layers[layer]);
        let reply = registry.get(&url);
        assert_eq!((reply.status, reply.text().as_str()), (200, want), "{url}");
        let etag = format!("\"{}\"", sha256(want.as_bytes()));
        headers(&reply, &[("etag", Some(&etag)), ("cache-control", Some(LASTING))], &url);
        let head = registry.head(&url);
        assert_eq!((head.status, lasting_headers(&head)), (200, lasting_headers(&reply)), "{url}");
    }
    let of = |layer: usize, path: &str| {
        registry
            .get(&format!("/v2/team/app/_files/blobs/1.4/{path}?layer={}", pushed.layers[layer]))
    };
    refused(&of(1, "zero"), 404, "FILE_UNKNOWN", "another layer's");
    refused(&of(1, "etc/old/x"), 404, "FILE_UNKNOWN", "below a whiteout");
    refused(&of(1, "etc/old"), 400, "FILE_INVALID", "a whiteout");
    refused(&of(1, "kept"), 400, "FILE_INVALID", "a directory");
    refused(&of(1, "same"), 400, "FILE_INVALID", "a link to a lower layer");
    let text = of(1, "same").text();
    assert!(text.contains("/same in layer ") && text.contains("hard link to /zero"), "{text}");
}

/// A layer's tar is a layer, which is pushed and shown here.
#[test]
fn archives_of_layers() {
    let (registry, pushed) = registry();
    let marks = |reply: &Reply| {
        let tar = body(reply);
        let block = |at: usize| tar[at..at + 100].split(|&b| b == 0).next().expect("a name");
        let names = (0..tar.len()).step_by(512).map(|at| String::from_utf8_lossy(block(at)));
        let marks = names.filter(|name| name.contains(".wh."));
        marks.map(|name| name.into_owned()).collect::<Vec<_>>()
    };
    let of = |path: &str, layer: usize| {
        let layer = pushed.layers[layer];
        registry.get(&format!("/v1/images/team%2Fapp:1.4/tar/{path}?layer={layer}"))
    };
    assert_eq!(marks(&of("", 1)), ["etc/.wh.old", ".wh.gone", "kept/.wh..wh..opq"]);
    assert_eq!(marks(&of("etc", 1)), [".wh.old"]);
    assert_eq!(marks(&of("kept", 1)), [".wh..wh..opq"]);
    assert_eq!(marks(&of("etc/old", 1)), [".wh.old"]);
    assert_eq!(marks(&registry.get("/v1/images/team%2Fapp:1.4/tar/")), [""; 0]);

    let tars: Vec<Vec<u8>> = (0..3).map(|layer| body(&of("", layer))).collect();
    let again = push(&registry, "again", "latest", &tars);
    let image = |reply: Reply| {
        let mut entries = listing(&reply);
        for entry in &mut entries {
            entry["image"].take();
            entry["layer"].take();
        }
        entries
    };
    for (before, after) in pushed.layers.iter().zip(&again.layers) {
        let [before, after] =
            [("team%2Fapp:1.4", before), ("again", after)].map(|(name, layer)| {
                image(registry.get(&format!("/v1/images/{name}/tree/?recursive=1&layer={layer}")))
            });
        assert_eq!(before, after);
    }
    let [before, after] = ["team%2Fapp:1.4", "again"]
        .map(|name| image(registry.get(&format!("/v1/images/{name}/tree/?recursive=1"))));
    assert_eq!(before, after, "the image that they make");
}

#[test]
fn what_is_no_layer() {
    let (registry, pushed) = registry();
    // A layer of another image, of the same repository and of another.
    let tar = Tar::default().file("etc/passwd", b"secret").finish();
    let layer = push(&registry, "other", "latest", std::slice::from_ref(&tar)).layers[0];
    push(&registry, NAME, "2", &[tar]);
    for view in ["tree", "blobs", "tar"] {
        for (layer, why) in [
            (layer, "another image's"),
            (absent(), "nothing's"),
            (pushed.config, "its config"),
            (pushed.manifest, "itself"),
        ] {
            let url = format!("/v2/team/app/_files/{view}/1.4/etc/passwd?layer={layer}");
            let reply = registry.get(&url);
            refused(&reply, 404, "BLOB_UNKNOWN", why);
            let message = format!("{layer} is not a layer of team/app@{}", pushed.manifest);
            assert!(reply.text().contains(&message), "{}", reply.text());
        }
        for layer in ["", "0123", "sha256:", "latest", "sha256:XYZ", "team/app"] {
            let url = format!("/v2/team/app/_files/{view}/1.4/etc/passwd?layer={layer}");
            refused(&registry.get(&url), 400, "UNSUPPORTED", layer);
        }
    }
    let both = format!("/v2/team/app/_files/tree/1.4/?deleted=1&layer={}", pushed.layers[0]);
    refused(&registry.get(&both), 400, "UNSUPPORTED", "nothing of a layer is deleted");
    let note = [("text/plain", "text", Some("note"))];
    let artifact = registry.push_artifact(
        NAME,
        "note",
        (OCI_EMPTY, "{}"),
        &note,
        json!({"artifactType": "x/y"}),
    );
    let url = format!("/v2/team/app/_files/tree/note/?layer={}", sha256(b"text"));
    refused(&registry.get(&url), 404, "BLOB_UNKNOWN", "an artifact");
    let url = format!("/v2/team/app/_files/tree/{artifact}/?deleted=1");
    let plain = registry.get(&format!("/v2/team/app/_files/tree/{artifact}/"));
    assert_eq!(registry.get(&url).text(), plain.text(), "nothing of an artifact is deleted");
}

/// Entries with the place of their layer.
fn with_layers(pushed: &Pushed, reply: &Reply) -> Vec<String> {
    let place = |entry: &Value| {
        let layer = entry["layer"].as_str().expect("a digest");
        pushed.layers.iter().position(|digest| digest.to_string() == layer).expect("its layer")
    };
    listing(reply).iter().map(|entry| format!("{} {}", shown(entry), place(entry))).collect()
}

const ALL: [&str; 16] = [
    "directory /etc/ 1",
    "file /etc/old deleted 0",
    "file /etc/passwd 2",
    "file /etc/passwd deleted 1",
    "file /etc/passwd deleted 0",
    "directory /gone/ deleted 0",
    "directory /gone/deep/ deleted 0",
    "file /gone/deep/x deleted 0",
    "directory /kept/ 0",
    "file /kept/a deleted 0",
    "file /kept/b 1",
    "directory /new/ 1",
    "file /new/file 1",
    "file /new/same 1",
    "file /same 0",
    "symlink /shortcut -> new/file 1",
];

#[test]
fn deleted() {
    let (registry, pushed) = registry();
    for image in ["/v1/images/team%2Fapp:1.4/tree", "/v2/team/app/_files/tree/1.4"] {
        let of = |rest: &str| with_layers(&pushed, &registry.get(&format!("{image}/{rest}")));
        let mut all = ALL.to_vec();
        all[0] = "directory /etc/ 0";
        all.push("file /zero deleted 0");
        assert_eq!(of("?recursive=1&deleted=1"), all);
        let shown: Vec<&str> =
            all.iter().copied().filter(|line| !line.contains("deleted")).collect();
        assert_eq!(of("?recursive=1"), shown);
        assert_eq!(of("?recursive=1&deleted=0"), shown);
        assert_eq!(of("etc?deleted=1"), all[1..5]);
        assert_eq!(of("gone?deleted=1"), all[6..7]);
        assert_eq!(of("gone?deleted=1&recursive=1"), all[6..8]);
        assert_eq!(of("gone/deep/?deleted=1"), all[7..8]);
        assert_eq!(of("gone/deep/x?deleted=1"), all[7..8]);
        assert_eq!(of("etc/passwd?deleted=1"), all[2..5]);
        assert_eq!(of("zero?deleted=1"), all[16..]);
        for path in ["none?deleted=1", "gone", "gone/none?deleted=1", "etc/old/x?deleted=1"] {
            assert_eq!(registry.get(&format!("{image}/{path}")).status, 404, "{path}");
        }

        // The entries of one path are on one page.
        let path = |line: &str| line.split(' ').nth(1).expect("a path").to_owned();
        for limit in 1..20 {
            let mut found = Vec::new();
            let mut next = Some(format!("{image}/?recursive=1&deleted=1&limit={limit}"));
            while let Some(url) = next {
                let reply = registry.get(&url);
                let page = with_layers(&pushed, &reply);
                next = next_page(&reply);
                assert_eq!(next_page(&registry.head(&url)), next, "HEAD {url}");
                // Once more, from the cache.
                assert_eq!(with_layers(&pushed, &registry.get(&url)), page);
                assert!(page.len() >= limit || next.is_none(), "{url}: {page:?}");
                if page.len() > limit {
                    assert_eq!(path(&page[limit - 1]), path(&page[page.len() - 1]), "{url}");
                }
                found.extend(page);
            }
            assert_eq!(found, all, "{limit}");
        }
        assert_eq!(of("?recursive=1&deleted=1&after=/etc/passwd"), all[5..]);
        assert_eq!(of("?recursive=1&deleted=1&after=/gone/"), all[6..]);
        assert_eq!(
            of("?deleted=1&after=/gone/deep/x"),
            all[8..]
                .iter()
                .copied()
                .filter(|line| { path(line).trim_end_matches('/').matches('/').count() == 1 })
                .collect::<Vec<_>>()
        );
    }
}

fn commands_on(dir: &Path, pushed: &Pushed) {
    const APP: &str = "team/app:1.4";
    let [base, middle, top] = [0, 1, 2].map(|at| pushed.layers[at].to_string());
    let short = |layer: &str| layer[7..19].to_owned();
    for layer in [middle.clone(), short(&middle)] {
        assert_eq!(
            text(dir, &["ls", "--layer", &layer, APP]),
            "etc\ngone\nkept\nnew\nsame\nshortcut\n"
        );
        assert_eq!(
            text(dir, &["ls", "-l", "--layer", &layer, APP]),
            "drwxr-xr-x 0 0 0 1970-01-01 00:00 etc\n\
             w--------- 0 0 0 1970-01-01 00:00 gone\n\
             drwxr-xr-x 0 0 0 1970-01-01 00:00 kept\n\
             drwxr-xr-x 0 0 0 1970-01-01 00:00 new\n\
             hrw-r--r-- 0 0 0 2001-09-09 01:46 same link to /zero\n\
             lrwxrwxrwx 0 0 8 2001-09-09 01:46 shortcut -> new/file\n"
        );
    }
    assert_eq!(printed(dir, &["cat", "--layer", &base, APP, "etc/passwd", "etc/old"]), b"oneold");
    assert_eq!(printed(dir, &["cat", "--layer", &short(&top), APP, "etc/passwd"]), b"three");
    fails(dir, &["cat", "--layer", &middle, APP, "same"], 1, "hard link to /zero");
    let none = absent().to_string();
    for command in ["ls", "cat", "export"] {
        let complaint = format!("{none} is not a layer of team/app@{}", pushed.manifest);
        fails(dir, &[command, "--layer", &none, APP, "etc/passwd"], 1, &complaint);
        fails(dir, &[command, "--layer", "1.4", APP, "etc/passwd"], 2, "--layer");
    }
    fails(dir, &["ls", "--deleted", "--layer", &top, APP], 2, "--deleted");

    let (b, m) = (short(&base), short(&middle));
    let blank = " ".repeat(15);
    assert_eq!(
        text(dir, &["ls", "--deleted", APP, "etc"]),
        format!("D {b} old\n{blank}passwd\nD {m} passwd\nD {b} passwd\n")
    );
    assert_eq!(
        text(dir, &["ls", "-lR", "--deleted", APP, "gone"]),
        format!(
            "D {b} drwxr-xr-x 0 0 0 2001-09-09 01:46 /gone/deep\n\
             D {b} -rw-r--r-- 0 0 4 2001-09-09 01:46 /gone/deep/x\n"
        )
    );
    assert_eq!(text(dir, &["ls", APP, "etc"]), "passwd\n");
}

#[test]
fn commands() {
    let (mut registry, pushed) = registry();
    let image = "/v1/images/team%2Fapp:1.4";
    let layer = pushed.layers[1].to_string();
    let of = |rest: &str| body(&registry.get(&format!("{image}/{rest}")));
    let tree = of(&format!("tree/?recursive=1&layer={layer}"));
    let tar = of(&format!("tar/?layer={layer}"));
    let deleted = of("tree/?recursive=1&deleted=1");
    let dir = registry.dir.clone();
    for running in [true, false] {
        if !running {
            assert!(registry.stop().success());
        }
        commands_on(&dir, &pushed);
        let app = "team/app:1.4";
        assert!(printed(&dir, &["ls", "--json", "-R", "--layer", &layer, app]) == tree);
        assert!(printed(&dir, &["ls", "--json", "-R", "--deleted", app]) == deleted);
        assert!(printed(&dir, &["export", "--layer", &layer, app]) == tar);
    }
}
