//! Tests the structure of all crates' modules: siblings have no cycles, and the top level stays small.

mod circles;
mod tokens;

use std::fs;
use std::path::{Path, PathBuf};

use circles::{Source, circles};

/// The maximum files and folders at the top level of this crate.
const MOST_AT_THE_TOP: usize = 20;

#[test]
fn no_modules_lean_on_each_other_in_a_circle() {
    let found = circles(&sources());
    let lines: Vec<String> = found.into_iter().map(|(level, line)| format!("{level}: {line}")).collect();
    assert!(lines.is_empty(), "these modules use each other:\n{}", lines.join("\n"));
}

#[test]
fn the_top_level_can_be_looked_over() {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap().count();
    assert!(entries <= MOST_AT_THE_TOP, "{entries} files and folders; put the new ones where they belong");
}

#[test]
fn a_circle_is_found_at_its_level() {
    let found = |files: &[(&str, &str)]| {
        let source =
            |(path, text): &(&str, &str)| Source { path: format!("one/src/{path}"), text: text.to_string() };
        circles(&files.iter().map(source).collect::<Vec<_>>())
    };
    let lines = |level: &str, lines: &[&str]| -> Vec<(String, String)> {
        lines.iter().map(|line| (level.to_string(), line.to_string())).collect()
    };
    // Uses in a `use` and in an expression, and through a third module.
    let two = found(&[("a.rs", "use crate::b::{X, y::Z};"), ("b.rs", "fn f() { crate::a::g::<u8>() }")]);
    assert_eq!(two, lines("one", &["a -> b (one/src/a.rs: X, y::Z)", "b -> a (one/src/b.rs: g)"]));
    let three =
        [("a.rs", "use super::b::X;"), ("b.rs", "use crate::c::X;"), ("c/mod.rs", ""), ("c/d.rs", "")];
    assert_eq!(found(&three), []);
    let three = [&three[..3], &[("c/d.rs", "use crate::a::X as Y;")]].concat();
    let all = ["a -> b (one/src/a.rs: X)", "b -> c (one/src/b.rs: X)", "c -> a (one/src/c/d.rs: X)"];
    assert_eq!(found(&three), lines("one", &all));
    // Children may use what their parent defines, but a name that it re-exports is a sibling's.
    let parent = "mod b; mod c; pub use b::{X, Y as Z}; pub struct W; fn f() { c::g() }";
    let children = |c| found(&[("a/mod.rs", parent), ("a/b.rs", "use super::c;"), ("a/c.rs", c)]);
    assert_eq!(children("use super::W; use crate::a::W as V;"), []);
    let passed = ["b -> c (one/src/a/b.rs: )", "c -> b (one/src/a/c.rs: Z)"];
    assert_eq!(children("use super::Z;"), lines("one/a", &passed));
    // Tests, comments and literals do not count.
    let a = ("a.rs", "use crate::b::X;");
    let quiet = r##"//! crate::a::X
        /* crate::a::X */ const S: &str = "\"crate::a::X"; const R: &[u8] = br#""crate::a::X"#; const C: char = '"';
        fn f<'a>(_: &'a str) {} #[cfg(test)] use crate::a::{X, Y};
        #[cfg(test)] mod more; #[cfg(test)] mod tests { use crate::a::X; fn g() { if true {} } }"##;
    let more = ("b/more.rs", "use crate::a::X;");
    assert_eq!(found(&[a, ("b/mod.rs", quiet), more, ("b/tests.rs", "use crate::a::X;")]), []);
}

fn sources() -> Vec<Source> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let mut sources = Vec::new();
    for entry in fs::read_dir(&crates).unwrap() {
        add(entry.unwrap().path().join("src"), &crates, &mut sources);
    }
    assert!(sources.len() > 100, "the sources of the workspace are here");
    sources
}

fn add(folder: PathBuf, crates: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add(path, crates, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(crates).unwrap().to_string_lossy().replace('\\', "/");
            sources.push(Source { path, text });
        }
    }
}
