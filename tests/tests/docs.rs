//! The documents name tests: each exists.

use std::fs;
use std::path::Path;

fn sources(dir: &Path, all: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with(".git") {
            sources(&path, all);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            all.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn tests_named_in_reliability_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut all = String::new();
    for part in ["kcp-core/src", "kcp-tokio", "kcp-cli", "tests/tests"] {
        sources(&root.join(part), &mut all);
    }
    let text = fs::read_to_string(root.join("docs/RELIABILITY.md")).unwrap();
    let mut named = 0;
    // In code spans: `file: test`, `test`, or a file.
    for span in
        text.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('`').skip(1).step_by(2))
    {
        let Some(test) =
            span.rsplit([':', '/']).next().map(str::trim).filter(|name| name.matches('_').count() > 2)
        else {
            continue;
        };
        assert!(
            all.contains(&format!("fn {test}")),
            "docs/RELIABILITY.md names {test}, which does not exist"
        );
        named += 1;
    }
    assert!(named > 40, "{named}");
}
