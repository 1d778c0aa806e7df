//! `docs/reliability.md` promises only what tests guard: every test that it names is there.

use std::{fs, path::Path};

#[test]
#[expect(clippy::disallowed_methods, reason = "the sources of the program itself")]
fn every_promise_names_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/reliability.md")).unwrap();
    let promises = page.split("## Not guarded yet").next().unwrap_or_default();
    let mut count = 0;
    for line in promises.lines().filter(|line| line.trim_start().starts_with("- `")) {
        let named: Vec<&str> = line.split('`').collect();
        let [_, file, ": ", test, ""] = named[..] else { panic!("no `file`: `test` in {line:?}") };
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let there = source.split("#[test]").skip(1).chain(source.split("#[tokio::test").skip(1));
        let is_it = |item: &str| {
            item.lines().take(6).any(|line| {
                line.trim_start().trim_start_matches("async ").starts_with(&format!("fn {test}("))
            })
        };
        assert!(there.into_iter().any(is_it), "{file} has no test {test}");
        count += 1;
    }
    assert!(count > 30, "only {count} tests were found in the page");
    let starts_with_number =
        |line: &&str| line.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
    let mut tests = 1;
    for line in promises.lines() {
        if starts_with_number(&line) {
            assert!(tests > 0, "the promise before {line:?} names no test");
            tests = 0;
        }
        tests += usize::from(line.trim_start().starts_with("- `"));
    }
}
