//! The repository's files, and just enough of Rust's grammar to tell which paths they name.
//!
//! Comments, strings and `#[cfg(test)]` modules name nothing; a grouped `use` names each of its paths.

use std::path::{Path, PathBuf};

/// A text file of the repository.
pub(crate) struct File {
    /// From the top level, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The top level.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All files that belong to the repository and are text, by name.
pub(crate) fn files() -> impl Iterator<Item = File> {
    let (mut found, mut folders) = (Vec::new(), vec![root()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the repository").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let kind = entry.file_type().expect("a file's type");
            let anywhere =
                [".git", ".venv", ".work", "target", "fixtures", "corpus", "node_modules", "Cargo.lock"];
            // What somebody who follows the README at the top level leaves there.
            let at_the_top =
                ["data", "spool", "logs"].contains(&name.as_ref()) || name.starts_with("target-");
            if anywhere.contains(&name.as_ref()) || at_the_top && folder == root() {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found.into_iter().filter_map(|path| {
        let text = String::from_utf8(std::fs::read(&path).ok()?).ok()?;
        let path = path.strip_prefix(root()).ok()?.to_string_lossy().replace('\\', "/");
        Some(File { path, text })
    })
}

/// Whether the word stands in the line and is not a part of a longer one.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    line.match_indices(word).any(|(at, _)| {
        let bytes = line.as_bytes();
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        let open_end = word.ends_with(|end: char| !end.is_alphanumeric());
        !part(before) && (open_end || !part(bytes.get(at + word.len())))
    })
}

/// A path in the code, with the line that it begins in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) line: usize,
    pub(crate) path: Vec<String>,
}

impl Names {
    /// `std::fs` is named by `std::fs::read`; `Instant::now` by `std::time::Instant::now`; `store` by `store::x` only.
    pub(crate) fn begins_with_or_ends_with(&self, path: &str) -> bool {
        let wanted: Vec<_> = path.split("::").collect();
        let begins =
            self.path.len() >= wanted.len() && self.path.iter().zip(&wanted).all(|(is, want)| is == want);
        let ends = wanted.len() > 1 && self.path.len() >= wanted.len() && {
            let tail = &self.path[self.path.len() - wanted.len()..];
            tail.iter().zip(&wanted).all(|(is, want)| is == want)
        };
        begins || ends
    }
}

/// All paths of two and more parts that the code names, and all that a `use` brings in.
pub(crate) fn named_paths(text: &str) -> Vec<Names> {
    let code = without_tests(&without_text(text));
    let tokens = tokens(&code);
    let mut named = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (line, token) = tokens[at];
        if token == "use" {
            at = use_tree(&tokens, at + 1, &mut Vec::new(), &mut named);
        } else if is_name(token) {
            let mut path = vec![token.to_owned()];
            while tokens.get(at + 1).map(|token| token.1) == Some("::")
                && tokens.get(at + 2).is_some_and(|token| is_name(token.1))
            {
                path.push(tokens[at + 2].1.to_owned());
                at += 2;
            }
            if path.len() > 1 {
                named.push(Names { line, path });
            }
            at += 1;
        } else {
            at += 1;
        }
    }
    named
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// One branch of a `use`; returns where it ends.
fn use_tree(
    tokens: &[(usize, &str)],
    mut at: usize,
    prefix: &mut Vec<String>,
    named: &mut Vec<Names>,
) -> usize {
    let depth = prefix.len();
    while let Some((line, token)) = tokens.get(at).copied() {
        at += 1;
        match token {
            "{" => {
                while tokens.get(at).is_some_and(|token| token.1 != "}") {
                    at = use_tree(tokens, at, prefix, named);
                    if tokens.get(at).is_some_and(|token| token.1 == ",") {
                        at += 1;
                    }
                }
                prefix.truncate(depth);
                return at + 1;
            }
            "as" => at += 1,
            "::" => {}
            ";" | "," | "}" => {
                named.push(Names { line, path: prefix.clone() });
                prefix.truncate(depth);
                return if token == ";" { at } else { at - 1 };
            }
            name => prefix.push(name.to_owned()),
        }
    }
    at
}

fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let is_part = |part: char| part.is_alphanumeric() || part == '_';
            let len = match first {
                _ if is_part(first) => rest.find(|part| !is_part(part)).unwrap_or(rest.len()),
                ':' if rest.starts_with("::") => 2,
                _ => first.len_utf8(),
            };
            tokens.push((line + 1, &rest[..len]));
            rest = rest[len..].trim_start();
        }
    }
    tokens
}

/// The code with comments and the contents of strings and characters blanked; lines stay where they are.
fn without_text(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    let blank = |code: &mut String, text: &str| {
        code.extend(text.chars().map(|sign| if sign == '\n' { '\n' } else { ' ' }));
    };
    while let Some(first) = rest.chars().next() {
        let in_name = code.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(len) = (!in_name).then(|| raw_string(rest)).flatten() {
            len
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        blank(&mut code, &rest[..len]);
        rest = &rest[len..];
    }
    code
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    for (at, _) in text.char_indices() {
        if text[at..].starts_with("/*") {
            depth += 1;
        } else if text[..at].ends_with("*/") && at > 3 {
            depth -= 1;
            if depth == 0 {
                return at;
            }
        }
    }
    text.len()
}

/// A character, and not a lifetime.
fn is_character(text: &str) -> bool {
    let mut signs = text.chars().skip(1);
    signs.next() == Some('\\') || signs.next() == Some('\'')
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, sign) in text.char_indices().skip(1) {
        match sign {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if sign == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let behind = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    let inner = behind[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let len = inner.find(&end).map_or(inner.len(), |at| at + end.len());
    Some(text.len() - inner.len() + len)
}

/// The code without what stands behind `#[cfg(test)]`: a `mod` with its braces, or one item up to its semicolon.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let mut depth = 0;
        let end = item.char_indices().skip(MARK.len()).find_map(|(at, sign)| {
            match sign {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && matches!(sign, '}' | ';')).then_some(at + 1)
        });
        let (item, behind) = item.split_at(end.unwrap_or(item.len()));
        kept.extend(item.chars().map(|sign| if sign == '\n' { '\n' } else { ' ' }));
        rest = behind;
    }
    kept + rest
}

#[test]
fn paths_are_found_in_code_and_nowhere_else() {
    let text = r###"//! tokio::x
        use std::{fs, io::{self, Write as W}, net::*};
        use store;
        fn f<'a>(x: &'a str) -> std::time::Instant { let c = '"'; tokio::spawn(a); "std::net::x"; r#"agent::" "#; /* a::b /* c::d */ e::f */
            std::time::Instant::now() }
        #[cfg(test)]
        mod tests { use rand::x; fn g() { disk::y() } }
        fn h() { last::one() }"###;
    let named: Vec<_> =
        named_paths(text).into_iter().map(|names| (names.line, names.path.join("::"))).collect();
    let want = [
        (2, "std::fs"),
        (2, "std::io::self"),
        (2, "std::io::Write"),
        (2, "std::net::*"),
        (3, "store"),
        (4, "std::time::Instant"),
        (4, "tokio::spawn"),
        (5, "std::time::Instant::now"),
        (8, "last::one"),
    ];
    assert_eq!(named, want.map(|(line, path)| (line, path.to_owned())));
    let names = |path: &str| Names { line: 1, path: path.split("::").map(str::to_owned).collect() };
    for (path, rule, want) in [
        ("std::fs::read", "std::fs", true),
        ("std::time::Instant::now", "Instant::now", true),
        ("std::fs", "std::fs::read", false),
        ("config::store", "store", false),
        ("storeroom::x", "store", false),
        ("store", "store", true),
    ] {
        assert_eq!(names(path).begins_with_or_ends_with(rule), want, "{path} {rule}");
    }
}
