//! The page of bounds: every constant that bounds something, where it is, what it is, why, and which test reaches it, in
//! one place. The page is made from the code (`KINESIN_WRITE_BOUNDS=1 cargo test -p tests --test tidy bounds`) and held
//! against it here.
//!
//! A test says in its documentation which bounds it reaches: [`MARK`], the names in backticks, and the file where they
//! are if it is another one. So the mark stands beside what it promises, and goes when the test goes.

use crate::source::{File, files, has_word, root};

const PAGE: &str = "tests/BOUNDS.md";

const HEAD: &str = "# Bounds\n\nEvery queue, cache, map, message and set of open files is bounded by one of these. Made from the code by \
                    `KINESIN_WRITE_BOUNDS=1 cargo test -p tests --test tidy bounds`;\nthe `tidy` suite fails where the two \
                    disagree, or where a bound has no sentence or no test that reaches it. What operators set is in \
                    `store/README.md` and `agent/README.md`.\n\n| bound | is | because | reached by |\n| --- | --- | --- | --- |\n";

/// What a line in a test's documentation begins with that says which bounds it reaches.
const MARK: &str = "/// Reaches `";

/// A line of the page.
struct Bound {
    file: String,
    name: String,
    value: String,
    sentence: String,
}

/// A test, and a bound that it says it reaches.
#[derive(Debug, PartialEq, Eq)]
struct Reach {
    test: String,
    file: String,
    name: String,
    /// Where the bound is.
    of: String,
    /// Whether its code names it.
    named: bool,
}

fn is_product(file: &File) -> bool {
    let product = ["agent/src/", "store/src/", "protocol/src/", "protocol/disk/src/", "video/src/"];
    file.path.ends_with(".rs") && product.iter().any(|folder| file.path.starts_with(folder))
}

/// Name and value of a constant that bounds something; also those of a trait, which have no value.
fn constant(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let line = line.strip_prefix("pub ").or_else(|| line.strip_prefix("pub(crate) ")).unwrap_or(line);
    let line = line.strip_prefix("pub(super) ").unwrap_or(line).strip_prefix("const ")?;
    let (name, rest) = line.split_once(':')?;
    let value = rest.split_once(" = ")?.1.trim_end_matches(';');
    // What a trait wants is a bound of another name again.
    let is_alias = value.split("::").last() == Some(name);
    (!is_alias && (name.ends_with("_MAX") || name.contains("_MAX_")))
        .then(|| (name.to_owned(), value.to_owned()))
}

fn bounds_of(file: &File) -> Vec<Bound> {
    let (mut found, mut sentence) = (Vec::new(), String::new());
    for line in file.text.lines() {
        let text = line.trim_start();
        if let Some(part) = text.strip_prefix("///") {
            sentence = format!("{sentence} {}", part.trim()).trim().to_owned();
        } else if let Some((name, value)) = constant(line) {
            found.push(Bound {
                file: file.path.clone(),
                name,
                value,
                sentence: std::mem::take(&mut sentence),
            });
        } else if !text.starts_with("#[") {
            sentence.clear();
        }
    }
    found
}

/// What the tests of a file say they reach. A mark above anything but a test is an error.
fn reaches_of(file: &File, wrong: &mut Vec<String>) -> Vec<Reach> {
    let mut found = Vec::new();
    let (mut marks, mut is_test): (Vec<(String, String)>, bool) = (Vec::new(), false);
    let lines: Vec<&str> = file.text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        if text.starts_with(MARK) {
            // Every second part stands between backticks.
            let names = text.split('`').skip(1).step_by(2).map(str::to_owned);
            let behind = text.rsplit('`').next().unwrap_or_default().trim_end_matches('.');
            let of = behind.strip_prefix(" of ").unwrap_or(&file.path);
            marks.extend(names.map(|name| (name, of.to_owned())));
        } else if text.starts_with("#[") {
            is_test |= text.starts_with("#[test]") || text.starts_with("#[tokio::test");
        } else if !text.starts_with("///") {
            let name = text.strip_prefix("async ").unwrap_or(text).strip_prefix("fn ");
            let test = name.and_then(|name| name.split('(').next()).filter(|_| is_test);
            let end = format!("{}}}", &line[..line.len() - text.len()]);
            for (name, of) in marks.drain(..) {
                let Some(test) = test else {
                    wrong.push(format!(
                        "{}:{}: says that it reaches {name}, and is no test",
                        file.path,
                        at + 1
                    ));
                    continue;
                };
                let mut body = lines[at..].iter().take_while(|line| **line != end);
                let named = body.any(|line| has_word(line, &name));
                found.push(Reach { test: test.to_owned(), file: file.path.clone(), name, of, named });
            }
            is_test = false;
        }
    }
    found
}

/// What is wrong between bounds and the tests that say that they reach them.
fn unreached(bounds: &[Bound], reaches: &[Reach]) -> Vec<String> {
    let is_of = |bound: &Bound, name: &str, file: &str| bound.name == name && bound.file == file;
    let mut wrong = Vec::new();
    for bound in bounds {
        let reached = reaches.iter().any(|reach| is_of(bound, &reach.name, &reach.of));
        if !reached {
            wrong.push(format!("{}: no test says that it reaches {}", bound.file, bound.name));
        }
    }
    for Reach { test, file, name, of, named } in reaches {
        if !bounds.iter().any(|bound| is_of(bound, name, of)) {
            wrong.push(format!("{file}: {test} says that it reaches {name} of {of}: there is no such bound"));
        }
        // From elsewhere it may be one that can't be named.
        if file == of && !named {
            wrong.push(format!("{file}: {test} says that it reaches {name}, and does not name it"));
        }
    }
    wrong
}

fn line_of(bound: &Bound, reaches: &[Reach]) -> String {
    let Bound { name, file, value, sentence } = bound;
    let tests = reaches.iter().filter(|reach| reach.name == *name && reach.of == *file);
    let tests: Vec<String> = tests.map(|reach| format!("`{}`", reach.test)).collect();
    let (sentence, tests) = (sentence.replace('|', "\\|"), tests.join(", "));
    let tests = if tests.is_empty() { "no test yet" } else { &tests };
    format!("| `{name}`, {file} | `{value}` | {sentence} | {tests} |\n")
}

#[test]
fn every_bound_has_a_sentence_and_a_test_that_reaches_it_and_stands_on_the_page_of_bounds() {
    let bounds: Vec<Bound> = files().filter(is_product).flat_map(|file| bounds_of(&file)).collect();
    assert!(bounds.len() > 50, "{} bounds", bounds.len());
    let mute = bounds.iter().filter(|bound| bound.sentence.is_empty());
    let mut wrong: Vec<String> =
        mute.map(|bound| format!("{}: {} has no sentence", bound.file, bound.name)).collect();
    let rust = files().filter(|file| file.path.ends_with(".rs") && !file.path.starts_with("tests/tidy/"));
    let mut reaches = Vec::new();
    for file in rust {
        reaches.extend(reaches_of(&file, &mut wrong));
    }
    wrong.extend(unreached(&bounds, &reaches));
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let page = HEAD.to_owned() + &bounds.iter().map(|bound| line_of(bound, &reaches)).collect::<String>();
    let path = root().join(PAGE);
    if std::env::var_os("KINESIN_WRITE_BOUNDS").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    let missing: Vec<&str> = page.lines().filter(|line| !there.lines().any(|other| other == *line)).collect();
    let stale: Vec<&str> = there.lines().filter(|line| !page.lines().any(|other| other == *line)).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "{PAGE} is not what the code says; write it anew with KINESIN_WRITE_BOUNDS=1\nmissing:\n{}\nstale:\n{}",
        missing.join("\n"),
        stale.join("\n")
    );
}

#[test]
fn a_bound_without_a_test_and_a_mark_without_a_bound_are_told() {
    let text = "const A_MAX: usize = 1;\nconst B_MAX: usize = 2;\nconst C_MAX: usize = 3;\nmod tests {\n    \
                /// Holds.\n    /// Reaches `A_MAX`, `B_MAX`.\n    /// Reaches `D_MAX` of b.rs.\n    #[test]\n    \
                fn it_holds() {\n        assert_eq!(A_MAX, 1);\n    }\n    /// Reaches `C_MAX`.\n    \
                fn helper() {}\n}\n";
    let file = File { path: "a.rs".to_owned(), text: text.to_owned() };
    let (bounds, mut wrong) = (bounds_of(&file), Vec::new());
    let reaches = reaches_of(&file, &mut wrong);
    assert_eq!(wrong, ["a.rs:13: says that it reaches C_MAX, and is no test"]);
    let names: Vec<_> = reaches.iter().map(|reach| (&*reach.test, &*reach.name, &*reach.of)).collect();
    let want = [("A_MAX", "a.rs"), ("B_MAX", "a.rs"), ("D_MAX", "b.rs")];
    assert_eq!(names, want.map(|(name, of)| ("it_holds", name, of)));
    let told = unreached(&bounds, &reaches);
    let want = [
        "a.rs: no test says that it reaches C_MAX",
        "a.rs: it_holds says that it reaches B_MAX, and does not name it",
        "a.rs: it_holds says that it reaches D_MAX of b.rs: there is no such bound",
    ];
    assert_eq!(told, want);
}
