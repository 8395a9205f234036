//! `registry grep`, and the same over HTTP.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::cli::{fails, text};
use crate::common::tar::Tar;
use crate::common::{Registry, eventually};
use crate::files::body;
use crate::find::push;
use crate::support::{headers, refused, sha256};

fn base() -> Vec<u8> {
    Tar::default()
        .file("etc/motd", b"one\ntwo words\nthree\nfour\ntwo\n")
        .file("etc/gone", b"two\n")
        .file(b"\xff\n.txt", b"caf\xe9 two")
        .file("binary", b"two\0")
        .file("empty", b"")
        .hard_link("linked", "etc/motd")
        .finish()
}

fn top() -> Vec<u8> {
    Tar::default().file("etc/.wh.gone", b"").file(".wh.linked", b"").file("new", b"TWO\n").finish()
}

/// Two images that share a layer.
fn registry() -> Registry {
    let registry = Registry::start(&[]);
    push(&registry, "team/app", "1.4", "linux/amd64", &[base()]);
    push(&registry, "team/app", "1.5", "linux/amd64", &[base(), top()]);
    indexed(&registry);
    registry
}

fn indexed(registry: &Registry) {
    eventually("everything is indexed", || answer(registry, "pattern=x").1["waiting_layers"] == 0);
}

/// The lines of an answer, and its end.
#[track_caller]
fn answer(registry: &Registry, query: &str) -> (Vec<Value>, Value) {
    let reply = registry.get(&format!("/v2/_query/grep?{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    let parse = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let body = String::from_utf8(body(&reply)).expect("UTF-8");
    let mut lines: Vec<Value> = body.lines().map(parse).collect();
    let end = lines.pop().expect("an end")["end"].take();
    assert!(end.is_object(), "the last line is the end");
    (lines, end)
}

/// Where the lines are: `IMAGE/PATH:NUMBER`.
fn places(lines: &[Value]) -> String {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let place = |line: &Value| {
        format!("{}{}:{}", text(&line["image"]), text(&line["path"]), line["line_number"])
    };
    lines.iter().map(place).collect::<Vec<_>>().join(" ")
}

#[test]
fn questions() {
    let registry = registry();
    for (query, want, why) in [
        (
            "pattern=three",
            "team/app:1.4/etc/motd:3 team/app:1.4/linked:3 team/app:1.5/etc/motd:3",
            "under every name that an image shows",
        ),
        ("pattern=^TWO$", "team/app:1.5/new:1", "a layer that only one has"),
        ("pattern=^two$&path=/etc/gone", "team/app:1.4/etc/gone:1", "deleted in the other"),
        ("pattern=three&path=/l*", "team/app:1.4/linked:3", "a path"),
        ("pattern=THREE", "", "case matters"),
        (
            "pattern=THREE&ignore_case=1&tag=*.5",
            "team/app:1.5/etc/motd:3",
            "unless it is said that it does not",
        ),
        ("pattern=t.o&fixed=1", "", "a text"),
        ("pattern=w&path=/etc/motd&tag=1.4", "team/app:1.4/etc/motd:2 team/app:1.4/etc/motd:5", ""),
        ("pattern=word&word=1", "", "no word"),
        (
            "pattern=words&word=1&image=team/app:1.5",
            "team/app:1.5/etc/motd:2",
            "a word of an image",
        ),
        (
            "pattern=three&pattern=four&tag=1.5",
            "team/app:1.5/etc/motd:3 team/app:1.5/etc/motd:4",
            "one of two patterns",
        ),
        ("pattern=words&index_skip=0&tag=1.5", "team/app:1.5/etc/motd:2", "every file is read"),
        ("pattern=two&in=other/**", "", "no such repository"),
        ("pattern=nothing", "", "no such line"),
    ] {
        let (lines, end) = answer(&registry, query);
        assert_eq!(places(&lines), want, "{why}: {query}");
        assert_eq!((&end["bound"], &end["lines"]), (&json!(null), &json!(lines.len())), "{why}");
    }

    let (lines, end) = answer(&registry, "pattern=two&path=/*.txt&tag=1.4");
    let manifest = sha256(registry.get("/v2/team/app/manifests/1.4").body.as_slice());
    assert_eq!(
        lines,
        [json!({
            "image": "team/app:1.4", "repository": "team/app", "tag": "1.4",
            "manifest": manifest.to_string(), "platform": "linux/amd64",
            "path": "/\u{fffd}\n.txt", "path_bytes": "/%FF%0A.txt", "line_number": 1,
            "absolute_offset": 0, "line_bytes": "Y2Fm6SB0d28=", "submatches": [{"start": 5, "end": 8}],
        })]
    );
    assert_eq!(end["images"], 1);
}

/// Pages of every size make up the whole answer.
#[test]
fn pages() {
    let registry = registry();
    for query in ["pattern=two", "pattern=o", "pattern=&path=/etc/**"] {
        let (whole, _) = answer(&registry, query);
        assert!(whole.len() > 4, "{query}");
        for limit in 1..=whole.len() + 1 {
            let (mut lines, mut after) = (Vec::new(), String::new());
            loop {
                let (page, end) = answer(&registry, &format!("{query}&limit={limit}{after}"));
                lines.extend(page);
                let Some(next) = end["next"].as_str() else { break };
                assert_eq!(end["bound"], "limit");
                after = format!("&after={next}");
            }
            assert_eq!(lines, whole, "{query} by {limit}");
        }
    }
}

#[test]
fn refusals() {
    let registry = Registry::start(&[]);
    let large = format!("pattern={}", "(%5Cw{50}){50}");
    for (query, names) in [
        ("", "pattern: "),
        ("pattern=(", "pattern: "),
        ("pattern=a%0Ab", "pattern: "),
        (&large, "pattern: "),
        ("pattern=a&before=1", "\"before\" is not a parameter"),
        ("pattern=a&fixed=maybe", "fixed is "),
        ("pattern=a&index_skip=maybe", "index_skip is "),
        ("pattern=a&path=[", "path: "),
        ("pattern=a&limit=0", "limit is "),
        ("pattern=a&after=x", "after: "),
        ("pattern=a&after=sha256:12:0:0", "after: "),
    ] {
        let reply = registry.get(&format!("/v2/_query/grep?{query}"));
        refused(&reply, 400, "UNSUPPORTED", query);
        assert!(reply.text().contains(&names.replace('"', "\\\"")), "{query}: {}", reply.text());
    }
    let reply = registry.get("/v2/_query/grep?pattern=a&image=nothing:1");
    assert_eq!(reply.status, 404, "{}", reply.text());
    let reply = registry.head("/v2/_query/grep?pattern=x");
    headers(&reply, &[("content-type", Some("application/x-ndjson"))], "HEAD");
    assert_eq!(registry.send("POST", "/v2/_query/grep", &[], b"").status, 405);
}

#[test]
fn changes() {
    let registry = registry();
    let found = |query: &str| places(&answer(&registry, query).0);
    push(&registry, "team/app", "1.4", "linux/amd64", &[top()]);
    indexed(&registry);
    assert_eq!(found("pattern=three"), "team/app:1.5/etc/motd:3", "the tag has moved");
    assert_eq!(found("pattern=TWO"), "team/app:1.4/new:1 team/app:1.5/new:1");
    assert_eq!(registry.delete("/v2/team/app/manifests/1.5").status, 202);
    assert_eq!(found("pattern=three"), "", "the tag is deleted");
}

#[test]
fn waiting() {
    let registry = Registry::start(&["--index-jobs", "0"]);
    push(&registry, "a", "1", "linux/amd64", &[base(), top()]);
    let (lines, end) = answer(&registry, "pattern=two");
    assert_eq!(lines.len(), 0);
    assert_eq!((&end["waiting_images"], &end["waiting_layers"]), (&json!(1), &json!(2)));
    fails(&registry.dir, &["grep", "TWO"], 1, "1 images were left out, because 2 layers");
    text(&registry.dir, &["index", "--all"]);
    assert_eq!(text(&registry.dir, &["grep", "TWO"]), "a:1/new:TWO\n");
}

#[test]
fn command_line() {
    let mut registry = registry();
    let dir = registry.dir.clone();
    for with_server in [true, false] {
        if !with_server {
            registry.stop();
        }
        let motd = "team/app:1.5/etc/motd";
        for (arguments, want) in [
            (&["-n", "thr", "team/app:1.5"][..], format!("{motd}:3:three\n")),
            (&["thr", "team/app:1.5"], format!("{motd}:three\n")),
            (&["-0", "-n", "thr", "team/app:1.5"], format!("{motd}\x003:three\n")),
            (&["-l0", "thr", "team/app:1.5"], format!("{motd}\0")),
            (&["-c", "two", "--path", "/etc/motd", "--tag", "1.5"], format!("{motd}:2\n")),
            (&["-co", "o", "--path", "/etc/motd", "--tag", "1.5"], format!("{motd}:5\n")),
            (
                &["-on", "w.", "--path", "/etc/m*", "--tag", "1.5"],
                format!("{motd}:2:wo\n{motd}:2:wo\n{motd}:5:wo\n"),
            ),
            (
                &["-nC1", "thr", "team/app:1.5"],
                format!("{motd}-2-two words\n{motd}:3:three\n{motd}-4-four\n"),
            ),
            (
                &["-A1", "--path", "/etc/motd", "^two", "team/app:1.5"],
                format!("{motd}:two words\n{motd}-three\n--\n{motd}:two\n"),
            ),
            (&["-e", "thr", "-e", "fou", "team/app:1.5"], format!("{motd}:three\n{motd}:four\n")),
            (
                &["-m1", "-v", "one", "--path", "/etc/motd", "team/app:1.5"],
                format!("{motd}:two words\n"),
            ),
            (&["-S", "two", "--path", "/new"], "team/app:1.5/new:TWO\n".to_owned()),
            (&["-a", "^two.$", "--path", "/binary", "--tag", "1.4"], {
                "team/app:1.4/binary:two\0\n".to_owned()
            }),
            (
                &["-L", "e", "--path", "/{empty,new,linked}", "team/app:1.5"],
                "team/app:1.5/empty\nteam/app:1.5/new\n".to_owned(),
            ),
            (&["-l", "two", "--max-filesize", "4", "team/app:1.4"], {
                "team/app:1.4/etc/gone\n".to_owned()
            }),
        ] {
            for more in [&[][..], &["--no-index-skip"]] {
                let arguments = [&["grep"], arguments, more].concat();
                assert_eq!(text(&dir, &arguments), want, "{arguments:?}");
            }
        }
        let json = text(&dir, &["grep", "--json", "two"]);
        if with_server {
            let reply = registry.get("/v2/_query/grep?pattern=two");
            let reply = String::from_utf8(body(&reply)).expect("UTF-8");
            let (lines, _) = reply.split_once("{\"end\"").expect("an end");
            assert_eq!(json, lines, "the same over HTTP");
        }
        fails(&dir, &["grep", "nothing of that kind"], 1, "");
        fails(&dir, &["grep", "("], 2, "the pattern cannot be used");
        fails(&dir, &["grep"], 2, "required");
        fails(&dir, &["grep", "x", "team/app:none"], 2, "manifest none is not in");
        fails(&dir, &["grep", "x", "--max-filesize", "ten"], 2, "want a number of bytes");
    }
}

/// A text of many spans, in which every line has its number.
fn long_text(lines: usize) -> Vec<u8> {
    let line =
        |number: usize| format!("{number} {:x}\n", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (0..lines).map(line).collect::<String>().into_bytes()
}

fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(tar).expect("memory");
    encoder.finish().expect("memory")
}

/// Lines across the borders of spans, of buffers, and of the parts in which results are sent.
#[test]
fn long_files() {
    let registry = Registry::start(&[]);
    let content = long_text(400_000);
    let text_of = String::from_utf8(content.clone()).expect("text");
    let mut binary = content.clone();
    let nul = binary.len() / 2;
    binary[nul] = 0;
    let tar = Tar::default()
        .file("before", b"x\n")
        .file("long", &content)
        .file("binary", &binary)
        .file("after", b"x\n")
        .finish();
    push(&registry, "plain", "1", "linux/amd64", std::slice::from_ref(&tar));
    push(&registry, "gzip", "1", "linux/amd64", &[gzip(&tar)]);
    text(&registry.dir, &["index", "--all"]);
    for image in ["plain:1", "gzip:1"] {
        let found = text(&registry.dir, &["grep", "", "--path", "/long", image]);
        let want: String = text_of.lines().map(|line| format!("{image}/long:{line}\n")).collect();
        assert!(found == want, "{image}: {} and {}", found.len(), want.len());
        let found = text(&registry.dir, &["grep", "-n", " .*beef", "--path", "/long", image]);
        let lines = text_of.lines().enumerate().filter(|(_, line)| line.contains("beef"));
        let want: String =
            lines.map(|(number, line)| format!("{image}/long:{}:{line}\n", number + 1)).collect();
        assert!(!want.is_empty());
        assert_eq!(found, want);
        let found = text(&registry.dir, &["grep", "-c", "", image]);
        assert_eq!(found, format!("{image}/before:1\n{image}/long:400000\n{image}/after:1\n"));
        let found = text(&registry.dir, &["grep", "^1 ", "--path", "/binary", image]);
        let want = format!(
            "{image}/binary:1 9e3779b97f4a7c15\n{image}/binary: WARNING: stopped searching binary file after match (found \"\\0\" byte around offset {nul})\n"
        );
        assert_eq!(found, want);
    }
    // In pages.
    let (mut numbers, mut after) = (Vec::new(), String::new());
    loop {
        let query = format!("pattern=&path=/long&in=gzip&limit=10000{after}");
        let (page, end) = answer(&registry, &query);
        numbers.extend(page.iter().map(|line| line["line_number"].as_u64().expect("a number")));
        let Some(next) = end["next"].as_str() else { break };
        after = format!("&after={next}");
        if numbers.len() > 50_000 {
            break;
        }
    }
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "no line is lost");
}

/// A line that is too long is an error of its file, and no other is missed.
#[test]
fn long_lines() {
    let registry = Registry::start(&[]);
    let line = vec![b'x'; 70 << 20];
    let short = vec![b'y'; 5 << 20];
    let tar = Tar::default()
        .file("first", b"needle\n")
        .file("long", &line)
        .file("short", &short)
        .file("last", b"needle\n")
        .finish();
    push(&registry, "a", "1", "linux/amd64", &[gzip(&tar)]);
    text(&registry.dir, &["index", "--all"]);
    let output = fails(&registry.dir, &["grep", "needle"], 2, "/long in a:1 cannot be searched");
    assert_eq!(String::from_utf8(output).unwrap(), "a:1/first:needle\na:1/last:needle\n");
    let (lines, end) = answer(&registry, "pattern=needle");
    let named: Vec<_> = lines.iter().filter(|line| !line["path"].is_null()).cloned().collect();
    assert_eq!(places(&named), "a:1/first:1 a:1/last:1");
    // There the bound is lower.
    assert_eq!(end["skipped"], 2, "{lines:?}");
}

/// What is found in a damaged layer comes, and what is not readable is named.
#[test]
fn damage() {
    let registry = Registry::start(&[]);
    let tar = Tar::default()
        .file("first", b"needle\n")
        .file("long", &long_text(200_000))
        .file("last", b"needle\n")
        .finish();
    push(&registry, "a", "1", "linux/amd64", std::slice::from_ref(&tar));
    text(&registry.dir, &["index", "--all"]);
    let hex = sha256(&tar).hex();
    let blob = registry.store().join("blobs/sha256").join(&hex[..2]).join(&hex).join("data");
    let mut bytes = std::fs::read(&blob).unwrap();
    let end = bytes.len() - 2048;
    bytes[end] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let output = fails(&registry.dir, &["grep", "needle"], 2, "is damaged");
    assert_eq!(String::from_utf8(output).unwrap(), "a:1/first:needle\n");
    std::fs::remove_file(&blob).unwrap();
    fails(&registry.dir, &["grep", "needle"], 2, "a:1");
}

/// A client that leaves ends the work, and gives back what it had of the pool.
#[test]
fn clients_that_leave() {
    let registry = Registry::start(&[]);
    let tar = Tar::default().file("long", &long_text(2_000_000)).finish();
    push(&registry, "a", "1", "linux/amd64", &[gzip(&tar)]);
    text(&registry.dir, &["index", "--all"]);
    for number in 0..200 {
        let mut stream = registry.connect();
        let pattern = if number % 2 == 0 { "no%20such%20line&index_skip=0" } else { "" };
        let request =
            format!("GET /v2/_query/grep?pattern={pattern} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let _ = stream.read(&mut [0; 16]).unwrap();
    }
    let start = Instant::now();
    let (lines, _) = answer(&registry, "pattern=^77%20");
    assert_eq!(lines.len(), 1);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let status = std::fs::read_to_string(format!("/proc/{}/status", registry.pid())).unwrap();
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    let threads: usize = threads.and_then(|number| number.trim().parse().ok()).unwrap();
    assert!(threads < 150, "{threads} threads are left");
}

/// Files that cannot have a match are not read.
#[test]
fn index_skip() {
    let registry = Registry::start(&[]);
    let tar = Tar::default().file("text", b"Some words of a file\n").file("b", b"\0hidden words");
    let tar = tar.finish();
    push(&registry, "a", "1", "linux/amd64", std::slice::from_ref(&tar));
    indexed(&registry);
    for (query, skips) in [
        ("pattern=words", true),
        ("pattern=WORDS&ignore_case=1", true),
        ("pattern=(other|words).*", true),
        ("pattern=word", false),
        ("pattern=.*", false),
        ("pattern=words&index_skip=0", false),
    ] {
        let (lines, end) = answer(&registry, query);
        assert_eq!(places(&lines), "a:1/text:1", "{query}");
        assert_eq!(end["index_skip"], skips, "{query}");
    }
    let (_, end) = answer(&registry, "pattern=some");
    assert_eq!(end["index_skip"], false, "it is too short");

    // Without its bytes, only what cannot match is still known.
    let hex = sha256(&tar).hex();
    let blob = registry.store().join("blobs/sha256").join(&hex[..2]).join(&hex).join("data");
    std::fs::remove_file(&blob).unwrap();
    for pattern in ["others than those", "hidden", "words of another file"] {
        fails(&registry.dir, &["grep", pattern], 1, "");
    }
    fails(&registry.dir, &["grep", "words"], 2, "a:1");
    fails(&registry.dir, &["grep", "--no-index-skip", "others"], 2, "a:1");
}
