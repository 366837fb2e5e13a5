//! The page of bounds: every constant that bounds something, where it is, what it is and why, in one place. The page is
//! made from the code (`KINESIN_WRITE_BOUNDS=1 cargo test -p tests --test tidy bounds`) and held against it here.

use crate::source::{File, files, root};

const PAGE: &str = "tests/BOUNDS.md";

const HEAD: &str = "# Bounds\n\nEvery queue, cache, map, message and set of open files is bounded by one of these. Made from the code by \
                    `KINESIN_WRITE_BOUNDS=1 cargo test -p tests --test tidy bounds`;\nthe `tidy` suite fails where the two \
                    disagree, or where a bound has no sentence. What operators set is in `store/README.md` and \
                    `agent/README.md`.\n\n| bound | is | because |\n| --- | --- | --- |\n";

/// A line of the page.
struct Bound {
    file: String,
    name: String,
    value: String,
    sentence: String,
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

#[test]
fn every_bound_has_a_sentence_and_stands_on_the_page_of_bounds() {
    let bounds: Vec<Bound> = files().filter(is_product).flat_map(|file| bounds_of(&file)).collect();
    assert!(bounds.len() > 50, "{} bounds", bounds.len());
    let mute: Vec<String> = bounds
        .iter()
        .filter(|bound| bound.sentence.is_empty())
        .map(|bound| format!("{}: {} has no sentence", bound.file, bound.name))
        .collect();
    assert!(mute.is_empty(), "\n{}", mute.join("\n"));
    let line = |bound: &Bound| {
        let sentence = bound.sentence.replace('|', "\\|");
        format!("| `{}`, {} | `{}` | {sentence} |\n", bound.name, bound.file, bound.value)
    };
    let page = HEAD.to_owned() + &bounds.iter().map(line).collect::<String>();
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
