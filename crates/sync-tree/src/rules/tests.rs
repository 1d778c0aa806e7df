use proptest::prelude::*;

use super::*;

fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

fn rules(files: &[(&str, &str)]) -> Rules {
    let files = files.iter().map(|(dir, text)| (path(dir), (*text).to_owned()));
    Rules::compile(&rule_set(&[], files))
}

/// Each row: the root's rules, a path (with `/` at its end for a directory), whether it is ignored.
#[test]
fn one_file_of_rules() {
    let rows = [
        ("", "a", false),
        ("# comment\n\n   \n", "a", false),
        ("*.log", "a.log", true),
        ("*.log", "deep/er/a.log", true),
        ("*.log", "a.log.txt", false),
        ("*.log\n!keep.log", "keep.log", false),
        ("!keep.log\n*.log", "keep.log", true),
        ("/top", "top", true),
        ("/top", "sub/top", false),
        ("a/b", "a/b", true),
        ("a/b", "x/a/b", false),
        ("build/", "build/", true),
        ("build/", "build", false),
        ("build/", "build/out/x", true),
        ("build/", "x/build/y", true),
        ("build/\n!build/keep", "build/keep", true),
        ("build/*\n!build/keep", "build/keep", false),
        ("build/*\n!build/keep", "build/other", true),
        ("**/cache", "cache", true),
        ("**/cache", "a/b/cache", true),
        ("a/**/z", "a/z", true),
        ("a/**/z", "a/b/c/z", true),
        ("a/**", "a/", false),
        ("a/**", "a/b/c", true),
        ("README", "readme", false),
        ("\\#x", "#x", true),
        ("#x", "#x", false),
        ("\\!x", "!x", true),
        ("x\\ ", "x ", true),
        ("x   ", "x", true),
        ("*.log\r\n/top\r\n", "a.log", true),
        ("*.log\r\n/top\r\n", "top", true),
        ("x\\ \r\n", "x ", true),
        ("\u{feff}*.log\n", "a.log", true),
        ("\u{feff}# c\n*.log\n", "a.log", true),
        ("\u{6587}\u{4ef6}*", "d/\u{6587}\u{4ef6}1", true),
        ("[ab]?.t", "d/a1.t", true),
        ("[!ab]", "c", true),
        ("*.log", "a\nb.log", true),
        ("a?c", "a/c", false),
        (".*", ".syncignore", true),
        (".syncignore", "d/.syncignore", true),
        ("*", "x", true),
        ("*\n!*/\n!*.rs", "src/main.rs", false),
        ("*\n!*/\n!*.rs", "src/main.o", true),
    ];
    for (text, name, ignored) in rows {
        let is_dir = name.ends_with('/');
        let rules = rules(&[("", text)]);
        assert_eq!(rules.bad_lines(), [], "{text:?}");
        assert_eq!(rules.is_ignored(&path(name.trim_end_matches('/')), is_dir), ignored, "{text:?} {name:?}");
    }
}

#[test]
fn deeper_rules_win_and_reach_only_down() {
    let rules = rules(&[("a/b", "!x.log\n/only"), ("", "*.log"), ("a", "y\n!x.log\n"), ("c", "!*.log\n")]);
    for (name, ignored) in [
        ("x.log", true),
        ("a/x.log", false),
        ("a/z.log", true),
        ("a/b/x.log", false),
        ("a/b/c/x.log", false),
        ("a/b/z.log", true),
        ("a/b/only", true),
        ("a/b/d/only", false),
        ("a/only", false),
        ("a/y", true),
        ("a/q/y", true),
        ("y", false),
        ("ab/y", false),
        ("c/any.log", false),
    ] {
        assert_eq!(rules.is_ignored(&path(name), false), ignored, "{name}");
    }
}

#[test]
fn nothing_comes_back_from_below_an_ignored_directory() {
    let rules = rules(&[("", "out/"), ("out", "!*"), ("out/keep", "!*")]);
    assert!(rules.is_ignored(&path("out/keep/x"), false));
    assert!(rules.is_ignored(&path("out/keep"), true));
}

#[test]
fn configured_patterns_come_before_the_roots_file() {
    let configured = ["*.tmp".to_owned(), "*.bak".to_owned()];
    let set = rule_set(&configured, [(path("d"), "x".into()), (path(""), "!keep.tmp".into())]);
    let dirs: Vec<_> = set.files.iter().map(|file| file.dir.as_str()).collect();
    assert_eq!(dirs, ["", "", "d"]);
    let rules = Rules::compile(&set);
    for (name, ignored) in
        [("a.tmp", true), ("keep.tmp", false), ("a.bak", true), ("d/x", true), ("x", false)]
    {
        assert_eq!(rules.is_ignored(&path(name), false), ignored, "{name}");
    }
}

#[test]
fn a_bad_line_is_told_and_spoils_nothing_else() {
    let rules = rules(&[("", "*.log\n[z-a]\n/top"), ("d", "{a,b\nx")]);
    let bad: Vec<_> = rules.bad_lines().iter().map(|bad| (bad.dir.as_str(), bad.text.as_str())).collect();
    assert_eq!(bad, [("", "[z-a]"), ("d", "{a,b")]);
    assert!(rules.is_ignored(&path("a.log"), false) && rules.is_ignored(&path("top"), false));
    assert!(rules.is_ignored(&path("d/x"), false));
    let shown: Vec<_> = rules.bad_lines().iter().map(ToString::to_string).collect();
    assert!(
        shown[0]
            .starts_with("The ignore pattern \"[z-a]\" in .syncignore or the configuration is left out: ")
    );
    assert!(shown[1].starts_with("The ignore pattern \"{a,b\" in d/.syncignore is left out: "));
}

#[test]
fn no_rules_ignore_nothing() {
    let none = Rules::default();
    assert!(none.is_empty() && !none.is_ignored(&path("a/b"), true));
    assert!(rules(&[("", "# only a comment"), ("d", "")]).is_empty());
    assert!(!rules(&[("", "*")]).is_ignored(&TreePath::root(), true), "the root is never ignored");
}

#[test]
fn digests_tell_rule_sets_apart() {
    let digest = |files: &[(&str, &str)]| rules(files).digest();
    assert_eq!(digest(&[("a", "x")]), digest(&[("a", "x")]));
    assert_ne!(digest(&[("a", "x")]), digest(&[("a", "y")]));
    assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
    assert_ne!(digest(&[]), digest(&[("", "")]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// A walk that goes only where it is not told to stay out sees exactly what the question about whole paths says.
    #[test]
    fn walking_down_and_asking_directly_agree(
        root in "(!?/?[abx*]{1,2}/?\n){0,4}",
        deeper in "(!?/?[abx*]{1,2}/?\n){0,4}",
        names in prop::collection::vec("[abx]{1,2}", 1..5),
    ) {
        let rules = rules(&[("", &root), ("a", &deeper), ("a/b", &root)]);
        let mut at = TreePath::root();
        let mut out = false;
        for name in &names {
            out = out || rules.is_ignored_below(&at, name, true);
            at = at.join(name);
            prop_assert_eq!(rules.is_ignored(&at, true), out, "{}", at);
        }
    }
}

fn file(dir: &str, text: String) -> RuleFile {
    RuleFile { dir: TreePath::new(dir).unwrap(), text }
}

fn size(set: &RuleSet) -> usize {
    set.files.iter().map(|file| file.dir.as_str().len() + file.text.len() + FILE_BYTES).sum()
}

fn told(set: &RuleSet) -> Vec<String> {
    let problems = too_much(set);
    assert!(problems.iter().all(|problem| !problem.unknown), "the files themselves are known");
    problems.iter().map(|problem| format!("{}: {}", problem.path, problem.error)).collect()
}

#[test]
fn a_text_that_is_too_long_counts_up_to_a_line_end() {
    let long = format!("first\n{}\nlast\n", "# äöü\n".repeat(MAX_TEXT_BYTES / 8));
    let set = RuleSet { files: vec![file("", "config".into()), file("d", long), file("e", "other".into())] };
    let sent = bounded(&set);
    let text = &sent.files[1].text;
    assert!(text.len() <= MAX_TEXT_BYTES && text.ends_with("# äöü\n"), "{}", text.len());
    let rules = Rules::compile(&set);
    let ignored = |path: &str| rules.is_ignored(&TreePath::new(path).unwrap(), false);
    assert!(ignored("d/first") && ignored("config") && ignored("e/other"));
    assert!(!ignored("d/last"));
    assert_eq!(rules.digest(), Rules::compile(&sent).digest(), "both sides agree");
    assert_eq!(bounded(&sent), sent);
    assert_eq!(told(&set), ["d/.syncignore: Only the first 64 KiB of ignore rules are applied"]);
    assert!(told(&sent).is_empty());
    let one_line = RuleSet { files: vec![file("", "x".repeat(MAX_TEXT_BYTES + 1))] };
    assert!(Rules::compile(&one_line).is_empty());
    let want = ".syncignore: Only the first 64 KiB of ignore rules (or in the configuration) are applied";
    assert_eq!(told(&one_line), [want]);
}

#[test]
fn all_rules_together_fit_one_message() {
    let text = format!("{}\n", "x".repeat(50_000));
    let set =
        RuleSet { files: (0..100).map(|number| file(&format!("d{number:02}"), text.clone())).collect() };
    let sent = bounded(&set);
    assert!((MAX_SET_BYTES - 51_000..=MAX_SET_BYTES).contains(&size(&sent)), "{}", size(&sent));
    assert_eq!(sent.files[..], set.files[..sent.files.len()]);
    assert_eq!(Rules::compile(&set).digest(), Rules::compile(&sent).digest());
    let want = format!(
        "d{}/.syncignore: The share has more than 2 MiB of ignore rules: from here on they are not applied",
        sent.files.len()
    );
    assert_eq!(told(&set), [want]);
    assert!(told(&sent).is_empty());
}
