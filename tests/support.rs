//! docs/support.md and the list of differences name tests; this makes sure that those tests exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use leveret_suite::reference::DIFFERS_FROM_3_10;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tests of a source file: the functions that follow a line `#[test]`.
fn tests_of(source: &str) -> impl Iterator<Item = &str> {
    let mut lines = source.lines();
    std::iter::from_fn(move || {
        lines.find(|line| line.trim() == "#[test]")?;
        // Other attributes may stand in between.
        lines.find_map(|line| line.trim().strip_prefix("fn ")?.split_once('(')).map(|(name, _)| name)
    })
}

/// All tests over the wire, as `module::test`.
fn wire_tests() -> BTreeSet<String> {
    let directory = root().join("tests/wire");
    let files = std::fs::read_dir(&directory).expect("tests/wire").map(|entry| entry.expect("an entry").path());
    let mut tests = BTreeSet::new();
    for file in files {
        let module = file.file_stem().and_then(|name| name.to_str()).expect("a name in UTF-8").to_owned();
        tests.extend(tests_of(&read(&file)).map(|name| format!("{module}::{name}")));
    }
    tests
}

/// What stands between single backticks and looks like `module::test`.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let between = text.split('`').skip(1).step_by(2);
    between.filter(move |name| name.split_once("::").is_some_and(|(module, test)| word(module) && word(test)))
}

#[test]
fn every_test_that_support_md_names_exists() {
    let tests = wire_tests();
    let text = read(&root().join("docs/support.md"));
    let missing: Vec<&str> = named(&text).filter(|name| !tests.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/support.md names tests that don't exist: {missing:#?}");
    assert!(named(&text).count() > 100, "the names in docs/support.md are no longer found");
}

#[test]
fn every_difference_from_the_reference_names_a_test() {
    let tests = wire_tests();
    let known = |name: &str| tests.iter().any(|test| test.split_once("::").is_some_and(|(_, test)| test == name));
    let missing: Vec<&str> = DIFFERS_FROM_3_10.iter().map(|(name, _)| *name).filter(|name| !known(name)).collect();
    assert!(missing.is_empty(), "the list of differences names tests that don't exist: {missing:#?}");
}

#[test]
fn every_module_of_the_wire_tests_is_named() {
    let text = read(&root().join("docs/support.md"));
    let modules: BTreeSet<&str> =
        named(&text).filter_map(|name| name.split_once("::")).map(|(module, _)| module).collect();
    let tests = wire_tests();
    let unnamed: BTreeSet<&str> = (tests.iter().filter_map(|test| test.split_once("::")))
        .map(|(module, _)| module)
        .filter(|module| !modules.contains(module))
        .collect();
    assert!(unnamed.is_empty(), "docs/support.md names no test of {unnamed:?}");
}
