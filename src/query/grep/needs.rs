//! What text a file has to have, so that a pattern can match in it: what the index is asked before
//! a layer is read.

use std::collections::BTreeSet;

use regex_syntax::hir::{Class, Hir, HirKind, Repetition};
use regex_syntax::{ParserBuilder, escape};

use super::{Asked, Case, Report};
use crate::index::{GRAM, Needs};

/// Texts that are followed at the same time, and bytes of one of them.
const TEXTS: usize = 32;
const TEXT: usize = 64;
/// Runs that are asked for. The rest of a longer pattern is not needed to be found.
const RUNS: usize = 8192;

/// What a file has to have; `None`: any may match.
pub fn needs(asked: &Asked) -> Option<Needs> {
    // The index knows nothing of what is behind a NUL byte, nor which files have one.
    if !asked.index_skip || asked.invert || asked.text || asked.report == Report::FilesWithout {
        return None;
    }
    let pattern = |pattern: &String| match asked.fixed {
        true => format!("(?:{})", escape(pattern)),
        false => format!("(?:{pattern})"),
    };
    let patterns: Vec<String> = asked.patterns.iter().map(pattern).collect();
    let hir = ParserBuilder::new()
        .utf8(false)
        .multi_line(true)
        // More than what matches where only some patterns mean that.
        .case_insensitive(asked.case != Case::Sensitive)
        .build()
        .parse(&patterns.join("|"));
    // The matcher has parsed the same.
    let hir = hir.ok()?;
    let mut left = RUNS;
    let mut run = Run::new(&mut left);
    run.walk(&hir);
    let needs = run.finish();
    (!needs.is_anything()).then_some(needs)
}

/// Texts of which one stands where an expression matches, in lower case.
type Texts = BTreeSet<Vec<u8>>;

fn one(text: &[u8]) -> Texts {
    Texts::from([text.to_ascii_lowercase()])
}

/// Every text of the first followed by every text of the second; `None`: too much.
fn product(first: &Texts, second: &Texts) -> Option<Texts> {
    if first.len() * second.len() > TEXTS {
        return None;
    }
    let pairs = first.iter().flat_map(|a| second.iter().map(move |b| [&a[..], b].concat()));
    let texts: Texts = pairs.collect();
    texts.iter().all(|text| text.len() <= TEXT).then_some(texts)
}

/// All texts that an expression matches; `None`: too many.
fn texts(hir: &Hir) -> Option<Texts> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(one(b"")),
        HirKind::Literal(literal) => Some(one(&literal.0)),
        HirKind::Class(class) => members(class),
        HirKind::Capture(capture) => texts(&capture.sub),
        HirKind::Concat(parts) => {
            parts.iter().try_fold(one(b""), |before, part| product(&before, &texts(part)?))
        }
        HirKind::Alternation(parts) => {
            let mut all = Texts::new();
            for part in parts {
                all.extend(texts(part)?);
                if all.len() > TEXTS {
                    return None;
                }
            }
            Some(all)
        }
        HirKind::Repetition(Repetition { min, max, sub, .. }) => {
            let max = max.filter(|&max| max as usize <= TEXT)?;
            let sub = texts(sub)?;
            let (mut all, mut now) = (Texts::new(), one(b""));
            for number in 0..=max {
                if number >= *min {
                    all.extend(now.iter().cloned());
                }
                if number < max {
                    now = product(&now, &sub)?;
                }
            }
            (all.len() <= TEXTS).then_some(all)
        }
    }
}

/// The texts of a class's characters.
fn members(class: &Class) -> Option<Texts> {
    let mut all = Texts::new();
    match class {
        Class::Bytes(class) => {
            for range in class.ranges() {
                for byte in range.start()..=range.end() {
                    all.extend(one(&[byte]));
                }
            }
        }
        Class::Unicode(class) => {
            for range in class.ranges() {
                if range.end() as usize - range.start() as usize >= 2 * TEXTS {
                    return None;
                }
                for character in range.start()..=range.end() {
                    all.extend(one(character.encode_utf8(&mut [0; 4]).as_bytes()));
                }
            }
        }
    }
    (all.len() <= TEXTS).then_some(all)
}

/// What is known on the way through an expression.
struct Run<'a> {
    /// One of these stands right before what comes next.
    texts: Texts,
    needs: Vec<Needs>,
    /// Runs of bytes that may still be asked for.
    left: &'a mut usize,
}

impl<'a> Run<'a> {
    fn new(left: &'a mut usize) -> Run<'a> {
        Run { texts: one(b""), needs: Vec::new(), left }
    }

    fn walk(&mut self, hir: &Hir) {
        if let Some(next) = texts(hir) {
            return self.then(&next);
        }
        match hir.kind() {
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.walk(part)),
            HirKind::Capture(capture) => self.walk(&capture.sub),
            HirKind::Repetition(repetition) if repetition.min > 0 => {
                self.walk(&repetition.sub);
                self.end();
            }
            HirKind::Alternation(parts) => {
                let before = std::mem::replace(&mut self.texts, one(b""));
                let mut branches = Vec::new();
                for part in parts {
                    let mut run = Run::new(&mut *self.left);
                    run.texts = before.clone();
                    run.walk(part);
                    branches.push(run.finish());
                }
                self.push(Needs::Any(branches));
            }
            _ => self.end(),
        }
    }

    /// One of `next` follows.
    fn then(&mut self, next: &Texts) {
        match product(&self.texts, next) {
            Some(texts) => self.texts = texts,
            None => {
                self.end();
                self.texts = next.clone();
            }
        }
    }

    /// Whatever follows.
    fn end(&mut self) {
        let texts = std::mem::replace(&mut self.texts, one(b""));
        let runs: usize = texts.iter().map(|text| text.len().saturating_sub(GRAM - 1)).sum();
        if runs <= *self.left {
            *self.left -= runs;
            self.push(Needs::Any(texts.iter().map(|text| Needs::text(text)).collect()));
        }
    }

    fn push(&mut self, needs: Needs) {
        match needs {
            Needs::Any(any) if any.iter().any(Needs::is_anything) => {}
            Needs::Any(mut any) if any.len() == 1 => {
                any.pop().into_iter().for_each(|one| self.push(one))
            }
            Needs::All(all) => self.needs.extend(all),
            needs => self.needs.push(needs),
        }
    }

    fn finish(mut self) -> Needs {
        self.end();
        Needs::All(self.needs)
    }
}

#[cfg(test)]
mod tests {
    use grep_matcher::Matcher;
    use proptest::prelude::*;

    use super::*;

    fn asked(patterns: &[&str]) -> Asked {
        Asked { patterns: patterns.iter().map(ToString::to_string).collect(), ..Asked::default() }
    }

    fn one_of(texts: &[&str]) -> Needs {
        Needs::Any(texts.iter().map(|text| Needs::text(text.as_bytes())).collect())
    }

    #[test]
    fn patterns() {
        let text = |text: &str| Needs::text(text.as_bytes());
        let all = |parts: &[Needs]| {
            let mut all = Vec::new();
            for part in parts {
                match part {
                    Needs::All(more) => all.extend(more.iter().cloned()),
                    one => all.push(one.clone()),
                }
            }
            Some(Needs::All(all))
        };
        let insensitive = |pattern| Asked { case: Case::Insensitive, ..asked(&[pattern]) };
        let fixed = |pattern| Asked { fixed: true, ..asked(&[pattern]) };
        for (asked, want) in [
            (asked(&["PRIVATE KEY"]), all(&[text("private key")])),
            (
                asked(&["^begin (rsa )?private$"]),
                all(&[one_of(&["begin private", "begin rsa private"])]),
            ),
            (asked(&["AKIA[0-9A-Z]{16}"]), None),
            (asked(&["secret[0-9A-Z]{16}=true!"]), all(&[text("secret"), text("=true!")])),
            (
                asked(&["CVE-20[12]1-.*log4j"]),
                all(&[one_of(&["cve-2011-", "cve-2021-"]), text("log4j")]),
            ),
            (asked(&["(GET|POST) /index"]), all(&[one_of(&["get /index", "post /index"])])),
            (
                asked(&["(first.*|second).*third"]),
                all(&[one_of(&["first", "second"]), text("third")]),
            ),
            (asked(&["(first.*|x).*third"]), all(&[text("third")])),
            (asked(&["first", "second"]), all(&[one_of(&["first", "second"])])),
            (asked(&["first", "x"]), None),
            (asked(&["(?:hello, )+world!"]), all(&[text("hello, "), text("world!")])),
            (asked(&["(?:hello, )*world!"]), all(&[text("world!")])),
            (asked(&["hello{2,3}!"]), all(&[one_of(&["helloo!", "hellooo!"])])),
            (asked(&["\\bword\\w+"]), None),
            (asked(&["four"]), None),
            (asked(&[""]), None),
            (asked(&[".*"]), None),
            (asked(&["\u{e9}t\u{e9}s"]), all(&[text("\u{e9}t\u{e9}s")])),
            (asked(&["a.b+c"]), None),
            (fixed("a.b+c"), all(&[text("a.b+c")])),
            (insensitive("Hello"), all(&[text("hello")])),
            (insensitive("makes"), {
                let texts = ["ma\u{212a}es", "ma\u{212a}e\u{17f}", "makes", "make\u{17f}"];
                all(&[one_of(&[texts[2], texts[3], texts[0], texts[1]])])
            }),
            (Asked { word: true, ..asked(&["needle"]) }, all(&[text("needle")])),
            (Asked { invert: true, ..asked(&["needle"]) }, None),
            (Asked { text: true, ..asked(&["needle"]) }, None),
            (Asked { index_skip: false, ..asked(&["needle"]) }, None),
            (Asked { report: Report::FilesWithout, ..asked(&["needle"]) }, None),
        ] {
            assert_eq!(needs(&asked), want, "{asked:?}");
        }
    }

    /// What is asked for stays within bounds, and is never less than what there is.
    #[test]
    fn large_patterns() {
        for pattern in [
            "x".repeat(100_000),
            format!("{}{}", "[ab]".repeat(100), "x".repeat(10_000)),
            "(?:[ab]cdefghi){100}".to_owned(),
            "(?:a?){1000}needle".to_owned(),
            format!("{}needle{}", "(?:".repeat(100), "){1,2}".repeat(100)),
            (0..5000).map(|number| format!("needle{number}|")).collect::<String>() + "needle",
            "(?i)".to_owned() + &"sk".repeat(1000),
        ] {
            let short: String = pattern.chars().take(30).collect();
            let start = std::time::Instant::now();
            let needs = needs(&asked(&[&pattern]));
            assert!(start.elapsed().as_secs() < 5, "{short}");
            fn count(needs: &Needs) -> usize {
                match needs {
                    Needs::Run(_) => 1,
                    Needs::All(needs) | Needs::Any(needs) => needs.iter().map(count).sum(),
                }
            }
            assert!(needs.as_ref().is_none_or(|needs| count(needs) <= RUNS), "{short}");
        }
    }

    fn expression() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            6 => prop::sample::select(vec!["some", "Text", "k", "s", "x", " ", "\u{e9}", "\u{17f}"])
                .prop_map(str::to_owned),
            2 => prop::sample::select(vec![
                "[a-e]", "[st]", ".", "\\w", "\\b", "^", "$", "[^x]", "(?i)", "(?-u:[\\x80-\\xff])",
                "[k\u{212a}]", "\\pL", "\\s", "",
            ]).prop_map(str::to_owned),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let several = || prop::collection::vec(inner.clone(), 1..4);
            prop_oneof![
                4 => several().prop_map(|parts| parts.concat()),
                1 => several().prop_map(|parts| format!("(?:{})", parts.join("|"))),
                1 => inner.clone().prop_map(|part| format!("({part})")),
                1 => (inner, prop::sample::select(vec!["*", "+", "?", "{2}", "{0,2}", "{2,}"]))
                    .prop_map(|(part, times)| format!("(?:{part}){times}")),
            ]
        })
    }

    /// Whatever matches has what is needed.
    #[test]
    fn nothing_is_lost() {
        let words = vec![
            "some", "SOME", "text", "Text", "k", "K", "\u{212a}", "s", "\u{17f}", "x", " ",
            "\u{e9}", "\u{c9}", "sometext", "abcde", "\n",
        ];
        let line = prop::collection::vec(prop::sample::select(words), 0..12);
        let options = (any::<bool>(), any::<bool>(), 0..3_usize);
        let config = ProptestConfig {
            cases: 3000,
            max_global_rejects: 100_000,
            ..ProptestConfig::default()
        };
        proptest!(config, |(
            patterns in prop::collection::vec(expression(), 1..3),
            lines in prop::collection::vec(line, 1..20),
            (fixed, word, case) in options,
        )| {
            let case = [Case::Sensitive, Case::Insensitive, Case::Smart][case];
            let asked = Asked { patterns, fixed, word, case, ..Asked::default() };
            let Ok(compiled) = asked.compile() else { return Ok(()) };
            let Some(needs) = &compiled.needs else { return Ok(()) };
            for line in lines.iter().map(|line| line.concat()).collect::<String>().lines() {
                if compiled.matcher.is_match(line.as_bytes()).unwrap() {
                    prop_assert!(needs.may_match(line.as_bytes()), "{:?} {line:?}", compiled.asked);
                }
            }
        });
    }
}
