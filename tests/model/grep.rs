//! `grep` against the model: a text looked for in every file of every image.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence};
use registry::image::Images;
use registry::query::grep::{After, Asked, Case, Found, Grep, LineKind, Pace, Report};
use registry::query::{Answer, Permitted, Scope, Step};

use super::common::tar::Tar;
use super::layers;
use super::model::{self, Member, Tree, What, content};
use super::store::Store;

fn everything() -> Permitted {
    Arc::new(|_| true)
}

fn texts(text: &[u8], asked: &Asked) -> Vec<(usize, usize)> {
    let (text, pattern) = match asked.case {
        Case::Sensitive => (text.to_owned(), asked.patterns[0].clone().into_bytes()),
        _ => (text.to_ascii_lowercase(), asked.patterns[0].to_ascii_lowercase().into_bytes()),
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at + pattern.len() <= text.len() {
        if text[at..].starts_with(&pattern) {
            found.push((at, at + pattern.len()));
            at += pattern.len();
        } else {
            at += 1;
        }
    }
    found
}

/// What is told of a file: lines as number, offset and text, or a count; `None`: nothing.
type Told = Option<(Vec<(u64, u64, Vec<u8>)>, u64)>;

fn want(content: &[u8], asked: &Asked) -> Told {
    // All of them fit into the first buffer.
    if !asked.text && content.contains(&0) {
        return None;
    }
    let (mut lines, mut count, mut matches, mut offset) = (Vec::new(), 0, 0, 0);
    for (number, whole) in content.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let line = whole.strip_suffix(b"\n").unwrap_or(whole);
        let found = texts(line, asked);
        if found.is_empty() == asked.invert && asked.max_lines.is_none_or(|max| count < max) {
            count += 1;
            matches += found.len().max(1) as u64;
            let number = number as u64 + 1;
            match asked.report {
                Report::Matches if !asked.invert => {
                    for (start, end) in found {
                        lines.push((number, offset + start as u64, line[start..end].to_owned()));
                    }
                }
                _ => lines.push((number, offset, line.to_owned())),
            }
        }
        offset += whole.len() as u64;
    }
    let is_found = count > 0;
    match asked.report {
        Report::Lines | Report::Matches => is_found.then_some((lines, count)),
        Report::Count => is_found.then_some((Vec::new(), count)),
        Report::CountMatches => is_found.then_some((Vec::new(), matches)),
        Report::Files => is_found.then_some((Vec::new(), 1)),
        Report::FilesWithout => (!is_found).then_some((Vec::new(), 0)),
    }
}

fn lines(found: &Found) -> Told {
    let text = |line| {
        let text = found.lines.text(line);
        text.strip_suffix(b"\n").unwrap_or(text).to_owned()
    };
    let lines = found.lines.lines.iter().filter(|line| line.kind == LineKind::Match);
    let lines = lines.map(|line| (line.number.unwrap(), line.offset, text(line)));
    Some((lines.collect(), found.lines.count))
}

fn ask(images: &Arc<Images>, scope: &Scope, asked: &Asked) -> Vec<Found> {
    let question = asked.clone().compile().unwrap();
    let grep = Grep::new(images, scope, &everything(), question, None, Pace::AllCores);
    let (mut grep, mut found) = (grep.unwrap(), Vec::new());
    loop {
        match grep.next_file().unwrap() {
            Step::Hit(hit) => found.push(hit),
            Step::Skipped(skipped) => panic!("{}: {}", skipped.image, skipped.error),
            Step::Working => {}
            Step::End => return found,
        }
    }
}

/// The lines that an answer in steps has, and where another goes on after each.
fn steps(
    images: &Arc<Images>,
    scope: &Scope,
    asked: &Asked,
    after: Option<&str>,
) -> Vec<(String, String)> {
    let question = asked.clone().compile().unwrap();
    let after = after.map(|after| After::parse(after.as_bytes()).unwrap());
    let grep = Grep::new(images, scope, &everything(), question, after, Pace::Steps);
    let (mut grep, mut told) = (grep.unwrap(), Vec::new());
    loop {
        let mut line = Vec::new();
        match grep.step(&mut line).unwrap() {
            Step::Hit(()) => {
                told.push((String::from_utf8(line).unwrap(), grep.position().unwrap()));
            }
            Step::Skipped(skipped) => panic!("{}: {}", skipped.image, skipped.error),
            Step::Working => assert!(line.is_empty()),
            Step::End => return told,
        }
    }
}

fn questions() -> Vec<Asked> {
    let pattern = |pattern: &str| Asked {
        patterns: vec![pattern.to_owned()],
        fixed: true,
        line_numbers: true,
        ..Asked::default()
    };
    vec![
        pattern("ab"),
        Asked { case: Case::Insensitive, ..pattern("AB") },
        Asked { text: true, ..pattern("e") },
        Asked { text: true, report: Report::Matches, ..pattern("n") },
        Asked { invert: true, ..pattern("x") },
        Asked { report: Report::Count, ..pattern("0") },
        Asked { text: true, report: Report::CountMatches, ..pattern("3") },
        Asked { report: Report::Files, ..pattern("*") },
        Asked { report: Report::FilesWithout, ..pattern("(") },
        Asked { text: true, invert: true, max_lines: Some(2), ..pattern("\t") },
        Asked { text: true, path: Some("/a/**".parse().unwrap()), ..pattern("q") },
        Asked { text: true, path: Some("/*".parse().unwrap()), ..pattern("q") },
    ]
}

fn compare(store: &Store, layers: &[Vec<Member>]) {
    // Two images that share all layers but the last.
    let mut shown: Vec<(Tree, String)> = Vec::new();
    for count in [layers.len() - 1, layers.len()] {
        let (Ok(tree), Ok(image)) = (model::image(&layers[..count]), store.image(&layers[..count]))
        else {
            return;
        };
        shown.push((tree, format!("model@{}", image.manifest)));
    }
    let scope = Scope {
        images: shown.iter().map(|(_, image)| image.parse().unwrap()).collect(),
        ..Scope::default()
    };
    for asked in questions() {
        let mut wanted = Vec::new();
        for (tree, image) in &shown {
            for (key, thing) in tree {
                let path = key.join("/");
                let glob =
                    |glob: &registry::query::Glob| glob.is_match(format!("/{path}").as_bytes());
                if let What::File(seed) = thing.what
                    && asked.path.as_ref().is_none_or(glob)
                    && let Some(told) = want(&content(seed), &asked)
                {
                    wanted.push((image.clone(), path, told));
                }
            }
        }
        let hits = ask(&store.images, &scope, &asked);
        let told = |hit: &Found| {
            let path = String::from_utf8(hit.path.to_vec()).unwrap();
            (hit.image.name.clone(), path, lines(hit).unwrap())
        };
        let mut found: Vec<_> = hits.iter().map(told).collect();
        wanted.sort();
        found.sort();
        assert_eq!(found, wanted, "{asked:?} in {layers:?}");

        // The same in steps, and from the middle on.
        let all = steps(&store.images, &scope, &asked, None);
        let mut lines = Vec::new();
        hits.iter().for_each(|hit| hit.write_json(asked.report, &mut lines));
        let text: String = all.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(text, String::from_utf8(lines).unwrap());
        if let Some((_, middle)) = all.get(all.len() / 2) {
            let rest = steps(&store.images, &scope, &asked, Some(middle));
            assert_eq!(rest, all[all.len() / 2 + 1..], "after {middle} in {layers:?}");
        }
    }
}

/// What the model leaves out: contents that begin with a mark of UTF-16, which are decoded, and
/// those with a line end in the three bytes that are read to look for such a mark: that line is
/// searched before a NUL byte is met.
fn is_odd(layers: &[Vec<Member>]) -> bool {
    let odd = |member: &Member| matches!(member, Member::File(_, 8 | 10 | 11 | 254..));
    layers.iter().flatten().any(odd)
}

#[test]
fn random_patterns() {
    let store = Store::new();
    let config = Config {
        cases: 100,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    };
    proptest!(config, |(layers in layers())| {
        prop_assume!(!is_odd(&layers));
        compare(&store, &layers);
    });
}

fn file(path: &str) -> Member {
    // Its content has a line "ab" after no NUL byte.
    Member::File(path.to_owned(), 97)
}

fn link(path: &str, target: &str) -> Member {
    Member::Link(path.to_owned(), target.to_owned())
}

/// Names that a file has in some of the images only.
#[test]
fn names_of_files() {
    let store = Store::new();
    let gone = |path: &str| Member::Marker(path.to_owned());
    for layers in [
        vec![vec![file("a"), link("b", "a")], vec![gone(".wh.a")]],
        vec![vec![file("a"), link("b", "a")], vec![gone(".wh.b"), link("c", "a")]],
        vec![vec![file("a")], vec![link("b", "a"), gone(".wh.a")]],
        vec![vec![file("a")], vec![link("a/b", "a")], vec![file("a")]],
        vec![vec![file("a")], vec![link("b", "a")], vec![file("a")], vec![gone(".wh.b")]],
        vec![
            vec![file("a"), link("b", "a")],
            vec![link("c", "a")],
            vec![file("a"), link("b", "a")],
        ],
        vec![vec![file("d/a")], vec![gone("d/.wh..wh..opq"), file("d/b")]],
        vec![vec![file("d/a")], vec![file("d")]],
    ] {
        compare(&store, &layers);
    }
}

/// A text in which some lines are repeated, and others have numbers of their own.
fn text(seed: u64, bytes: usize) -> Vec<u8> {
    let (mut text, mut number) = (Vec::with_capacity(bytes), seed);
    while text.len() < bytes {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let line = match number >> 61 {
            0 => "The same line, again and again.\n".to_owned(),
            1 => format!("    value_{} = caf\u{e9}\n", number % 1000),
            2 => format!("{number:x}"),
            _ => format!("key {:x} IS Number{}\n", number >> 20, seed % 7),
        };
        text.extend_from_slice(line.as_bytes());
    }
    text.truncate(bytes);
    text
}

/// A file: its size, where it has a NUL byte, and whether it is UTF-16.
type Shape = (usize, Option<prop::sample::Index>, bool);

fn shape() -> impl Strategy<Value = Shape> {
    let size = prop_oneof![6 => 0..2000_usize, 3 => 0..400_000_usize, 1 => 0..5_000_000_usize];
    (size, prop::option::weighted(0.2, any::<prop::sample::Index>()), prop::bool::weighted(0.1))
}

fn of_shape(seed: u64, (size, nul, is_wide): &Shape) -> Vec<u8> {
    let mut content = text(seed, *size);
    if let Some(nul) = nul.as_ref().filter(|_| *size > 0) {
        content[nul.index(*size)] = 0;
    }
    if *is_wide {
        let units = String::from_utf8_lossy(&content).into_owned();
        content =
            [0xfeff].into_iter().chain(units.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    }
    content
}

/// Patterns around a text that is in a file, or is not.
fn around(text: &str) -> Vec<Asked> {
    let escaped = regex_syntax::escape(text);
    let middle = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
    let (head, tail) = text.split_at(middle);
    let gap = format!("{}.+{}", regex_syntax::escape(head), regex_syntax::escape(tail));
    let asked = |pattern: &str| Asked { patterns: vec![pattern.to_owned()], ..Asked::default() };
    vec![
        Asked { fixed: true, ..asked(text) },
        Asked { fixed: true, case: Case::Insensitive, ..asked(&text.to_uppercase()) },
        Asked { fixed: true, case: Case::Smart, ..asked(&text.to_lowercase()) },
        Asked { word: true, report: Report::Count, ..asked(&escaped) },
        Asked { report: Report::FilesWithout, ..asked(&escaped) },
        Asked { report: Report::Files, text: true, ..asked(&escaped) },
        Asked { invert: true, report: Report::Count, ..asked(&escaped) },
        Asked { report: Report::Matches, ..asked(&format!("no such line|{escaped}")) },
        Asked { before: 1, after: 1, max_lines: Some(3), ..asked(&gap) },
        Asked { max_filesize: Some(300_000), ..asked(&format!("(?i){escaped}$")) },
        Asked { report: Report::Files, ..asked(&format!("(?:{escaped})+|[0-9]{{7}}zz")) },
        asked(&format!("^[a-z ]*{escaped}\\w?")),
    ]
}

/// What is passed over by the index has no match: the answers with and without it are the same.
#[test]
fn skip_index() {
    let store = Store::new();
    let config = Config {
        cases: 6,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..Config::default()
    };
    let layer = prop::collection::vec(shape(), 1..12);
    let cut = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..40_usize);
    proptest!(config, |(
        layers in prop::collection::vec(layer, 1..3),
        cuts in prop::collection::vec(cut, 4),
        first in any::<u32>(),
    )| {
        let contents: Vec<Vec<Vec<u8>>> = layers.iter().enumerate().map(|(number, shapes)| {
            let seed = |file: usize| u64::from(first) << 16 | (number * 100 + file) as u64;
            shapes.iter().enumerate().map(|(file, shape)| of_shape(seed(file), shape)).collect()
        }).collect();
        let tars: Vec<Vec<u8>> = contents.iter().enumerate().map(|(number, files)| {
            let mut tar = Tar::default();
            for (file, content) in files.iter().enumerate() {
                tar = tar.file(format!("{number}-{file}"), content).file("shadowed", content);
            }
            tar.hard_link("linked", format!("{number}-0")).finish()
        }).collect();
        let image = store.image_of_tars(&tars).unwrap();
        let name = format!("model@{}", image.manifest);
        let scope = Scope { images: vec![name.parse().unwrap()], ..Scope::default() };
        let mut texts = vec!["A text that is nowhere".to_owned()];
        for (file, at, length) in cuts {
            let files: Vec<_> = contents.iter().flatten().collect();
            let content = files[file.index(files.len())];
            if content.is_empty() {
                continue;
            }
            let at = at.index(content.len());
            let cut = &content[at..(at + length).min(content.len())];
            let cut = cut.split(|&byte| byte == b'\n' || byte == 0).next().unwrap();
            let cut = String::from_utf8_lossy(cut).replace(char::REPLACEMENT_CHARACTER, "");
            // The same with one other character, which most often is nowhere.
            texts.push(cut.replacen('e', "q", 1));
            texts.push(cut);
        }
        for asked in texts.iter().flat_map(|text| around(text)) {
            let told = |index_skip| {
                let hits = ask(&store.images, &scope, &Asked { index_skip, ..asked.clone() });
                let mut told = Vec::new();
                hits.iter().for_each(|hit| hit.write_json(asked.report, &mut told));
                String::from_utf8(told).unwrap()
            };
            let (with, without) = (told(true), told(false));
            prop_assert!(with == without, "{asked:?}: {} and {} bytes", with.len(), without.len());
        }
    });
}
