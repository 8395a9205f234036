//! `registry diff`, and the same over HTTP.

use serde_json::{Value, json};

use crate::cli::{fails, text};
use crate::common::Registry;
use crate::common::tar::{Member, Tar};
use crate::files::body;
use crate::find::push;
use crate::support::{refused, sha256};

fn base() -> Vec<u8> {
    Tar::default()
        .directory("etc")
        .file("etc/app.conf", b"one\ntwo\nthree\n")
        .file("etc/binary", b"\0\x01")
        .file("etc/same", b"same")
        .file(b"gone/\xff\n", b"odd")
        .symlink("link", "etc")
        .finish()
}

fn upper() -> Vec<u8> {
    let private = Member { mode: 0o600, ..Member::default() };
    Tar::default()
        .file("etc/app.conf", b"one\n2\nthree\nfour\n")
        .file("etc/binary", b"\0\x02")
        .member("etc/same", b"same", &private)
        .file("etc/new", b"new\n")
        .file(".wh.gone", b"")
        .symlink("link", "etc/new")
        .finish()
}

fn registry() -> Registry {
    let registry = Registry::start(&[]);
    push(&registry, "team/app", "1", "linux/amd64", &[base()]);
    push(&registry, "team/app", "2", "linux/amd64", &[base(), upper()]);
    // The same files in other layers, in another repository.
    push(&registry, "other", "1", "linux/amd64", &[Tar::default().finish(), base()]);
    registry
}

const LINES: &str = "M /etc/app.conf content
M /etc/binary content
A /etc/new
M /etc/same mode
D /gone
D /gone/\u{fffd}
M /link link
";

#[test]
fn command_line() {
    let mut registry = registry();
    let dir = registry.dir.clone();
    let differs = |arguments: &[&str]| {
        let arguments = [&["diff"], arguments].concat();
        String::from_utf8_lossy(&fails(&dir, &arguments, 1, "")).into_owned()
    };
    for with_server in [true, false] {
        if !with_server {
            registry.stop();
        }
        let lines = LINES.replace("/\u{fffd}", "/\u{fffd}\n");
        assert_eq!(differs(&["team/app:1", "team/app:2"]), lines);
        assert_eq!(differs(&["other:1", "team/app:2"]), lines, "no layer at the same place");
        assert_eq!(text(&dir, &["diff", "team/app:1", "other:1"]), "", "the same files");
        assert_eq!(text(&dir, &["diff", "team/app:1", "team/app:1", "--patch"]), "");
        assert_eq!(
            differs(&["team/app:2", "team/app:1", "/etc/new", "gone"]),
            "D /etc/new\nA /gone\nA /gone/\u{fffd}\n\n"
        );
        assert_eq!(
            differs(&["team/app:2", "team/app:1", "gone", "/etc/new", "/gone/"]),
            "D /etc/new\nA /gone\nA /gone/\u{fffd}\n\n",
            "in order, and once"
        );
        assert_eq!(
            differs(&["team/app:1", "team/app:2", "--stat"]),
            "/etc: 1 added, 0 deleted, 3 modified, +23 -16 bytes\n\
             /gone: 0 added, 2 deleted, 0 modified, +0 -3 bytes\n\
             /link: 0 added, 0 deleted, 1 modified, +0 -0 bytes\n\
             total: 1 added, 2 deleted, 4 modified, +23 -19 bytes\n"
        );
        assert_eq!(
            differs(&["team/app:1", "team/app:2", "--patch", "/etc"]),
            "M /etc/app.conf content\n\
             --- a/etc/app.conf\n\
             +++ b/etc/app.conf\n\
             @@ -1,3 +1,4 @@\n one\n-two\n+2\n three\n+four\n\
             M /etc/binary content\n\
             Binary files a/etc/binary and b/etc/binary differ\n\
             A /etc/new\n\
             --- /dev/null\n\
             +++ b/etc/new\n\
             @@ -0,0 +1 @@\n+new\n\
             M /etc/same mode\n"
        );
        fails(&dir, &["diff", "team/app:1", "team/app:3"], 2, "team/app");
        fails(&dir, &["diff", "team/app:1", "team/app:2", "nothing"], 2, "does not exist");
        fails(&dir, &["diff", "team/app:1"], 2, "required");
        fails(&dir, &["diff", "team/app:1", "team/app:2", "--stat", "--json"], 2, "cannot be used");
    }
}

#[track_caller]
fn answer(registry: &Registry, query: &str) -> (Vec<Value>, Value) {
    let reply = registry.get(&format!("/v2/_query/diff?{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    let text = String::from_utf8(body(&reply)).expect("UTF-8");
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let end = lines.pop().expect("an end")["end"].take();
    (lines, end)
}

#[test]
fn over_http() {
    let registry = registry();
    let both = "a=team%2Fapp:1&b=team%2Fapp:2";
    let (lines, end) = answer(&registry, both);
    assert_eq!((&end["bound"], &end["lines"]), (&Value::Null, &json!(lines.len())));
    let side = |mode: u16, content: &[u8], layer: &[u8]| {
        json!({
            "type": "file", "size": content.len(), "mode": mode, "uid": 0, "gid": 0,
            "digest": sha256(content).to_string(), "layer": sha256(layer).to_string(),
        })
    };
    assert_eq!(
        lines[3],
        json!({
            "change": "modified", "path": "/etc/same", "what": ["mode"],
            "a": side(0o644, b"same", &base()), "b": side(0o600, b"same", &upper()),
        })
    );
    assert_eq!(
        lines[5],
        json!({
            "change": "deleted", "path": "/gone/\u{fffd}\n", "path_bytes": "/gone/%FF%0A",
            "what": [], "a": side(0o644, b"odd", &base()), "b": null,
        })
    );
    let json = fails(&registry.dir, &["diff", "team/app:1", "team/app:2", "--json"], 1, "");
    let printed: Vec<Value> = String::from_utf8(json)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(printed, lines, "the same on the command line");
    assert_eq!(answer(&registry, &format!("{both}&path=/gone")).0, lines[4..6]);

    let odd = Tar::default()
        .symlink("link", b"\xff")
        .device("null", b'3', (1, 5))
        .device("pipe", b'6', (0, 0))
        .finish();
    let other = Tar::default()
        .symlink("link", b"\xfe")
        .device("null", b'3', (1, 3))
        .device("pipe", b'6', (0, 0))
        .finish();
    push(&registry, "odd", "1", "linux/amd64", &[odd]);
    push(&registry, "odd", "2", "linux/amd64", &[other]);
    let (changes, _) = answer(&registry, "a=odd:1&b=odd:2");
    let [link, null] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!((&link["path"], &link["what"]), (&json!("/link"), &json!(["link"])));
    assert_eq!(
        (&link["a"]["linkname"], &link["b"]["linkname"]),
        (&json!("\u{fffd}"), &json!("\u{fffd}"))
    );
    assert_eq!(
        (&link["a"]["linkname_bytes"], &link["b"]["linkname_bytes"]),
        (&json!("%FF"), &json!("%FE"))
    );
    assert_eq!((&null["path"], &null["what"]), (&json!("/null"), &json!(["device"])));
    let numbers = |side: &Value| (side["major"].as_u64(), side["minor"].as_u64());
    assert_eq!(
        (numbers(&null["a"]), numbers(&null["b"])),
        ((Some(1), Some(5)), (Some(1), Some(3)))
    );

    // Pages of every size make up the whole answer, also one about paths that lead elsewhere in the
    // other image.
    for (link, own) in [("first", "a"), ("second", "b")] {
        let folder = Tar::default().symlink("link", link.as_bytes()).directory(link);
        let folder = folder.directory(format!("{link}/both"));
        let folder = folder.file(format!("{link}/both/{own}"), b"");
        let folder = folder.file(format!("{link}/both/same"), own.as_bytes()).file(own, b"");
        push(&registry, "linked", link, "linux/amd64", &[folder.finish()]);
    }
    for (query, count) in [
        (both.to_owned(), lines.len()),
        (format!("{both}&path=/gone&path=etc"), 6),
        ("a=linked:first&b=linked:second&path=a&path=link/both&path=b".to_owned(), 5),
    ] {
        let lines = answer(&registry, &query).0;
        assert_eq!(lines.len(), count, "{query}: {lines:#?}");
        for limit in 1..=lines.len() + 1 {
            let (mut found, mut after) = (Vec::new(), String::new());
            loop {
                let (page, end) = answer(&registry, &format!("{query}&limit={limit}{after}"));
                found.extend(page);
                let Some(next) = end["next"].as_str() else { break };
                after = format!("&after={next}");
            }
            assert_eq!(found, lines, "{query} by {limit}");
        }
    }
    for (query, status, code) in [
        ("a=team%2Fapp:1", 400, "UNSUPPORTED"),
        ("a=team%2Fapp:1&b=UPPER", 400, "UNSUPPORTED"),
        ("a=team%2Fapp:1&b=team%2Fapp:9", 404, "MANIFEST_UNKNOWN"),
        ("a=team%2Fapp:1&b=nothing:1", 404, "MANIFEST_UNKNOWN"),
        ("a=team%2Fapp:1&b=team%2Fapp:2&c=1", 400, "UNSUPPORTED"),
        ("a=team%2Fapp:1&b=team%2Fapp:2&path=nothing", 404, "FILE_UNKNOWN"),
        ("a=team%2Fapp:1&b=team%2Fapp:2&path=/etc&after=/etc", 400, "UNSUPPORTED"),
        ("a=team%2Fapp:1&b=team%2Fapp:2&platform=linux/s390x", 404, ""),
    ] {
        let reply = registry.get(&format!("/v2/_query/diff?{query}"));
        match code {
            "" => assert_eq!(reply.status, status, "{query}: {}", reply.text()),
            code => refused(&reply, status, code, query),
        }
    }
}
