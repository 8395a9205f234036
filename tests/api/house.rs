//! Rules of the house: who may import whom, and documents that stay true.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use registry::cli::Cli;

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The source files below a folder of the project.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

/// Faces translate; they reach the store and its index through `registry` and `image` only.
#[test]
fn faces_import_neither_storage_nor_index() {
    for face in ["cli", "fuse", "http"] {
        for path in sources(&format!("src/{face}")) {
            for (number, line) in read(&path).lines().enumerate() {
                let named =
                    ["crate::storage", "crate::index"].iter().any(|room| line.contains(room));
                assert!(!named, "{}:{}: {line}", path.display(), number + 1);
            }
        }
    }
}

/// Each room imports what docs/ARCHITECTURE.md says that it may, and rooms that all may import.
#[test]
fn rooms_import_what_they_may() {
    let architecture = read("docs/ARCHITECTURE.md");
    let mut checked = 0;
    for section in architecture.split("\n### ").skip(1) {
        let (heading, text) = section.split_once('\n').expect("a heading has a text");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let list =
            text.split_once("May import: ").and_then(|(_, rest)| rest.split_once(" Tests: "));
        let Some((list, _)) = list.filter(|(list, _)| *list != "every room.") else {
            continue;
        };
        let mut may: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
        may.extend([heading, "background", "log", "metrics", "roots", "terminal"]);
        for path in sources(&format!("src/{heading}")) {
            for (number, line) in read(&path).lines().enumerate() {
                for named in line.split("crate::").skip(1) {
                    // `crate::{log, metrics::name}` names several rooms.
                    let list = named.strip_prefix('{');
                    let rooms = if list.is_some() { usize::MAX } else { 1 };
                    for named in list.unwrap_or(named).split(',').take(rooms) {
                        let named = named.trim();
                        let end = named.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                        let room = &named[..end.unwrap_or(named.len())];
                        let there = room.is_empty() || may.contains(&room);
                        assert!(
                            there,
                            "{}:{}: {heading} imports {room}",
                            path.display(),
                            number + 1
                        );
                    }
                }
            }
        }
        checked += 1;
    }
    assert!(checked > 10, "{checked}");
}

/// Every setting that an environment variable has is described for operators.
#[test]
fn settings_are_documented() {
    let operations = read("docs/operations.md");
    let command = Cli::command();
    let arguments = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let mut settings = 0;
    for argument in arguments {
        let Some(variable) = argument.get_env().and_then(|variable| variable.to_str()) else {
            continue;
        };
        let flag = argument.get_long().expect("a setting has a flag");
        let flags = [format!("`--{flag}`"), format!("`--{flag} ")];
        let named = flags.iter().any(|flag| operations.contains(flag));
        assert!(named, "docs/operations.md does not describe --{flag}");
        let named = operations.contains(&format!("`{variable}`"));
        assert!(named, "docs/operations.md does not name {variable}");
        settings += 1;
    }
    assert!(settings > 20, "{settings}");
}

/// The files and folders that these documents name exist.
#[test]
fn documents_name_existing_files() {
    for document in ["docs/ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let quoted = text.split('`').skip(1).step_by(2);
        let paths = quoted.filter(|quoted| {
            ["src/", "tests/", "docs/"].iter().any(|folder| quoted.starts_with(folder))
                && !quoted.contains(char::is_uppercase)
                && !quoted.contains(' ')
        });
        let mut named = 0;
        for path in paths {
            let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists();
            assert!(there, "{document} names {path}, which does not exist");
            named += 1;
        }
        assert!(named > 5, "{document}: {named}");
    }
}

/// Every room has a heading in docs/ARCHITECTURE.md.
#[test]
fn rooms_are_documented() {
    let architecture = read("docs/ARCHITECTURE.md");
    let headings: Vec<&str> =
        architecture.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    for line in read("src/lib.rs").lines() {
        let Some(room) = line.rsplit_once("mod ").map(|(_, room)| room.trim_end_matches(';'))
        else {
            continue;
        };
        let there = headings.iter().any(|heading| heading.split(", ").any(|name| name == room));
        assert!(there, "docs/ARCHITECTURE.md has no heading for {room}");
    }
}
