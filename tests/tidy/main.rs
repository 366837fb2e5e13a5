//! The repository checks itself: what may name what, how files are written, what may be depended upon.
//!
//! Rules are rows of tables; each says why. A rule that is in the way is changed here, with its reason, and not evaded.

mod bounds;
mod licences;
mod source;

use std::path::Path;

use source::{File, Names, files, named_paths, root};

/// In these files (path prefixes) these paths are not named, because.
struct Absence {
    here: &'static [&'static str],
    except: &'static [&'static str],
    never: &'static [&'static str],
    because: &'static str,
}

const ABSENCES: &[Absence] = &[
    Absence {
        here: &["protocol/src/"],
        except: &[],
        never: &[
            "tokio",
            "std::fs",
            "std::net",
            "std::thread",
            "Instant::now",
            "SystemTime::now",
            "rand",
            "getrandom",
        ],
        because: "bytes in, values out: it must run in a fuzzer, a simulator and a browser",
    },
    Absence {
        here: &["video/src/"],
        except: &[],
        never: &[
            "tokio",
            "std::fs",
            "std::net",
            "std::thread",
            "Instant::now",
            "SystemTime::now",
            "rand",
            "getrandom",
        ],
        because: "bytes in, values out: agent and store use it, and a fuzzer",
    },
    Absence {
        here: &["video/"],
        except: &[],
        never: &["agent", "store", "tests", "disk"],
        because: "it is below both",
    },
    Absence {
        here: &["protocol/"],
        except: &[],
        never: &["agent", "store", "tests"],
        because: "it is below both",
    },
    Absence {
        here: &["protocol/disk/src/"],
        except: &[],
        never: &["protocol", "agent", "store", "tests", "tokio"],
        because: "it is the bottom: it knows files and nothing of ours",
    },
    Absence {
        here: &["agent/src/"],
        except: &[],
        never: &["store", "tests"],
        because: "agent and store meet in protocol, or they can't be upgraded apart",
    },
    Absence {
        here: &["store/src/"],
        except: &[],
        never: &["agent", "tests"],
        because: "agent and store meet in protocol, or they can't be upgraded apart",
    },
    Absence {
        here: &[
            "store/src/service",
            "store/src/shard",
            "store/src/log",
            "store/src/video",
            "store/src/retain",
        ],
        except: &[],
        never: &[
            "api",
            "crate::api",
            "protocol::kinesis",
            "protocol::kvs",
            "protocol::sigv4",
            "protocol::native",
        ],
        because: "a wire format stops at the edge; a second API is a second folder",
    },
    Absence {
        here: &["store/src/log"],
        except: &[],
        never: &["crate::shard", "crate::service"],
        because: "an engine does not know who writes",
    },
    Absence {
        here: &["store/src/deliver", "store/src/analytics", "store/src/hls", "store/src/console"],
        except: &[],
        never: &["crate::shard", "crate::log", "disk"],
        because: "they read like any consumer; a slow sink can't touch the write path",
    },
    Absence {
        here: &["tests/sim/", "tests/src/world"],
        except: &[],
        never: &[
            "tokio",
            "std::net",
            "std::thread",
            "crate::clock",
            "tests::clock",
            "crate::harness",
            "tests::harness",
        ],
        because: "the same seed is the same history: no real time, no sockets, no threads",
    },
];

/// What a file that says `Pure:` or `Pure.` in its module documentation does not name.
const NOT_PURE: &[&str] = &[
    "tokio",
    "Instant::now",
    "SystemTime::now",
    "std::thread",
    "std::net",
    "std::fs",
    "rand",
    "getrandom",
    "crate::clock",
];

fn is_source(file: &File) -> bool {
    let ours = ["protocol/", "video/", "agent/", "store/", "tests/"];
    file.path.ends_with(".rs") && ours.iter().any(|member| file.path.starts_with(member))
}

/// Fails with everything that is wrong, not only the first.
fn check(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n  {}\n", wrong.join("\n  "));
}

fn absent(file: &File, named: &[Names], never: &[&str], because: &str, wrong: &mut Vec<String>) {
    for names in named {
        let hit = never.iter().find(|path| names.begins_with_or_ends_with(path));
        wrong.extend(hit.map(|path| {
            format!("{}:{}: names `{path}` in `{}`: {because}", file.path, names.line, names.path.join("::"))
        }));
    }
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent = files().filter(is_source).filter(|file| !file.text.trim_start().starts_with("//!"));
    check(silent.map(|file| format!("{}: begins without `//!`", file.path)).collect());
}

#[test]
fn nothing_names_what_it_must_not_name() {
    let mut wrong = Vec::new();
    for file in files().filter(is_source) {
        let named = named_paths(&file.text);
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.path.starts_with(prefix));
        for rule in ABSENCES.iter().filter(|rule| begins(rule.here) && !begins(rule.except)) {
            absent(&file, &named, rule.never, rule.because, &mut wrong);
        }
        let documented = file.text.lines().take_while(|line| line.starts_with("//!"));
        let mut words = documented.flat_map(|line| line.split_whitespace());
        if words.any(|word| word == "Pure:" || word == "Pure.") {
            absent(&file, &named, NOT_PURE, "the module says that it is pure", &mut wrong);
        }
    }
    check(wrong);
}

#[test]
fn no_file_is_so_long_that_nobody_reads_it() {
    let long = files().filter(is_source).filter(|file| file.text.lines().count() > 1000);
    check(long.map(|file| format!("{}: more than 1000 lines", file.path)).collect());
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    // Put together, so that this file does not contain them.
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("todo", "!("),
        concat!("unimpl", "emented!("),
    ];
    let mut wrong = Vec::new();
    for file in files() {
        for (at, line) in file.text.lines().enumerate() {
            let word = words.iter().find(|word| source::has_word(line, word));
            wrong.extend(word.map(|word| format!("{}:{}: {word}", file.path, at + 1)));
        }
    }
    check(wrong);
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let paths =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("../sha", "red")];
    // Real logs are looked for there, where there are some; nothing depends on them.
    let allowed = ["tests/src/harness/corpus.rs", "tests/README.md"];
    let mut wrong = Vec::new();
    for file in files().filter(|file| !allowed.contains(&file.path.as_str())) {
        for (at, line) in file.text.lines().enumerate() {
            let path = paths.iter().find(|path| line.contains(*path));
            wrong.extend(path.map(|path| format!("{}:{}: {path}", file.path, at + 1)));
        }
    }
    check(wrong);
}

#[test]
fn characters_beyond_ascii_are_only_where_they_can_be_seen_for_what_they_are() {
    const DRAWING: std::ops::RangeInclusive<char> = '\u{2500}'..='\u{25ff}';
    const SIGNS: &str = "\u{2013}\u{2014}\u{2026}\u{2190}\u{2191}\u{2192}\u{2193}\u{2194}\u{2260}\u{2264}\u{2265}\u{d7}\u{b7}\u{b5}\u{b0}\u{a7}\u{b1}\u{b2}\u{3bc}\u{2018}\u{2019}\u{201c}\u{201d}\u{2713}\u{2717}";
    let invisible = |sign: char| matches!(sign, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{ad}' | '\u{a0}');
    let mut wrong = Vec::new();
    for file in files() {
        // Prose may be in any language; code and configuration keep to ASCII and a few signs.
        let prose = file.path.ends_with(".md");
        for (at, line) in file.text.lines().enumerate() {
            let odd = line.chars().find(|sign| {
                let listed = SIGNS.contains(*sign) || DRAWING.contains(sign);
                invisible(*sign) || !sign.is_ascii() && !prose && !listed
            });
            wrong.extend(odd.map(|sign| format!("{}:{}: U+{:04X}", file.path, at + 1, u32::from(sign))));
        }
    }
    check(wrong);
}

#[test]
fn every_member_takes_the_workspace_s_lints_and_edition() {
    let mut wrong = Vec::new();
    for file in files().filter(|file| file.path.ends_with("/Cargo.toml") && !file.path.contains("/fuzz/")) {
        let manifest: toml::Table = file.text.parse().expect("a manifest");
        let inherits = |table: &str, key: Option<&str>| {
            let value = manifest.get(table).and_then(|table| key.map_or(Some(table), |key| table.get(key)));
            value.and_then(|value| value.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
        };
        let all = inherits("lints", None)
            && ["edition", "license", "version", "rust-version"]
                .into_iter()
                .all(|key| inherits("package", Some(key)));
        if !all {
            wrong.push(format!(
                "{}: lints, edition, license, version, rust-version: from the workspace",
                file.path
            ));
        }
    }
    check(wrong);
}

#[test]
fn the_tests_lint_rules_are_among_the_workspace_s_with_the_same_reasons() {
    let rules = |path: &str| {
        let table: toml::Table = read(path).parse().expect("a clippy.toml");
        table["disallowed-methods"].as_array().cloned().unwrap_or_default()
    };
    let (everywhere, tests) = (rules("clippy.toml"), rules("tests/clippy.toml"));
    check(tests.iter().filter(|rule| !everywhere.contains(rule)).map(ToString::to_string).collect());
    check(everywhere.iter().filter(|rule| rule.get("reason").is_none()).map(ToString::to_string).collect());
}

#[test]
fn a_newcomer_finds_the_pages_that_one_looks_for() {
    let pages =
        ["README.md", "CHANGELOG.md", "LICENSE", "LICENSE-APACHE", "LICENSE-MIT", "tests/all", ".ci/run"];
    check(
        pages
            .into_iter()
            .filter(|page| !root().join(page).is_file())
            .map(|page| format!("{page}: missing"))
            .collect(),
    );
    let changelog = read("CHANGELOG.md");
    let parts = ["### Safety and performance", "### Features", "### Internals"];
    check(
        parts
            .into_iter()
            .filter(|part| !changelog.contains(part))
            .map(|part| format!("CHANGELOG.md: {part}"))
            .collect(),
    );
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(&root()).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
