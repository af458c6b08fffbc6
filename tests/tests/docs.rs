//! The documents name tests: each exists, in the file that is named, and is one that runs.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What `core/loss`, `tests/kernel` and the like mean: a file, or all of a directory.
fn files(named: &str) -> Vec<PathBuf> {
    let (dir, rest) = named.split_once('/').unwrap_or((named, ""));
    let base = match dir {
        "core" => format!("kcp-core/src/tests/{rest}"),
        "tests" => format!("tests/tests/{rest}"),
        // Both compile what is in there.
        "tokio" if matches!(rest, "loom" | "shuttle") => "kcp-tokio/tests/models".to_owned(),
        "tokio" => format!("kcp-tokio/tests/{rest}"),
        "recv" | "send" | "congestion" => format!("kcp-core/src/{named}"),
        _ => named.to_owned(),
    };
    let mut all = vec![root().join(format!("{base}.rs"))];
    if let Ok(entries) = fs::read_dir(root().join(base)) {
        all.extend(entries.map(|entry| entry.unwrap().path()));
    }
    all.retain(|path| path.is_file());
    all
}

/// Whether a source has a function of this name that the harness runs.
fn is_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let defined = |line: &&str| {
        let line = line.trim_start_matches("pub(crate) ").trim_start_matches("async ");
        line.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    lines.iter().enumerate().filter(|(_, line)| defined(line)).any(|(at, _)| {
        let above =
            lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

/// Whether it is a scenario of the list that runs each on TCP and on KCP, or a model of the list that runs each in both checkers.
fn is_listed(source: &str, name: &str) -> bool {
    let lists = source.split_once("suite! {").or_else(|| source.split_once("models! {"));
    lists.is_some_and(|(_, list)| list.lines().any(|line| line.trim() == name))
}

/// The tests that a text names: file and test. In code spans: `file: test`, and after that, with nothing but a comma between, `test`.
fn named(text: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for line in text.lines() {
        let (mut file, mut between) = (None, "");
        for (at, part) in line.split('`').enumerate() {
            if at % 2 == 0 {
                between = part;
                continue;
            }
            let is_path = |file: &str| file.contains('/') && !file.contains(' ');
            if let Some((named, test)) = part.split_once(": ").filter(|(named, _)| is_path(named)) {
                file = Some(named.to_owned());
                all.push((named.to_owned(), test.to_owned()));
            } else if let Some(file) = file.clone().filter(|_| between == ", ") {
                all.push((file, part.to_owned()));
            } else {
                file = None;
            }
        }
    }
    all
}

/// A whole file says nothing of what holds a promise.
fn names_a_whole_file(text: &str) -> Option<&str> {
    text.split('`').skip(1).step_by(2).find(|span| {
        let part = span.strip_prefix("core/").or(span.strip_prefix("tests/")).or(span.strip_prefix("tokio/"));
        part.is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    })
}

#[test]
fn tests_named_in_reliability_exist() {
    let text = fs::read_to_string(root().join("docs/RELIABILITY.md")).unwrap();
    let named = named(&text);
    let mut missing = Vec::new();
    for (file, test) in &named {
        let sources: Vec<_> = files(file).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        if !sources.iter().any(|source| is_test(source, test) || is_listed(source, test)) {
            missing.push(format!("{file}: {test}"));
        }
    }
    assert!(missing.is_empty(), "docs/RELIABILITY.md names what is no test there: {missing:#?}");
    // What looks like a test and is named otherwise would go unnoticed.
    let spans = text.split('`').skip(1).step_by(2).filter(|span| !span.contains([':', '/', ' ']));
    for span in spans.filter(|span| span.matches('_').count() > 2) {
        assert!(named.iter().any(|(_, test)| test == span), "{span} is named without its file");
    }
    assert!(named.len() > 100, "{}", named.len());
    assert_eq!(names_a_whole_file(&text), None);
}

#[test]
fn a_helper_another_file_and_a_whole_file_are_no_tests() {
    let source = "fn seeds() {}\n/// Says.\n#[tokio::test(start_paused = true)]\n// Why.\nasync fn it_runs() {}\n\
                  #[test]\n\nfn apart() {}\n";
    assert!(is_test(source, "it_runs") && !is_test(source, "it_run") && !is_test(source, "seeds"));
    assert!(!is_test(source, "apart"));
    assert!(is_listed("fn one() {}\nsuite! {\n closing {\n  one\n }\n}\n", "one"));
    assert!(!is_listed("fn one() {}\n", "one"));
    let text =
        "| promise | `core/loss: one`, `two`; `tests/kernel` |\n`shutdown`, `una` of `a/b.rs`\nIn `a: b`.";
    let pair = |file: &str, test: &str| (file.to_owned(), test.to_owned());
    assert_eq!(named(text), [pair("core/loss", "one"), pair("core/loss", "two")]);
    assert_eq!(names_a_whole_file(text), Some("tests/kernel"));
    assert!(files("core/no_such_file").is_empty());
}
