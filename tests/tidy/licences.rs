//! What is depended upon, against the policy in `deny.toml`: licences, banned crates, sources, and which member may need
//! which. Needs cargo and nothing else, so that it runs wherever the tests run.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::{check, read};

/// What cargo knows about everything that is built for this machine.
fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let run = |arguments: &[&str]| {
        let manifest = super::root().join("Cargo.toml");
        Command::new(&cargo)
            .args(arguments)
            .arg("--manifest-path")
            .arg(manifest)
            .output()
            .expect("cargo runs")
    };
    let version = Command::new("rustc").arg("-vV").output().expect("rustc runs").stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", host];
    // Everything is there after a build; if it is not, cargo may fetch it.
    let offline = run(&[&arguments[..], &["--offline"]].concat());
    let output = if offline.status.success() { offline } else { run(&arguments) };
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo speaks JSON")
}

fn policy() -> toml::Table {
    read("deny.toml").parse().expect("deny.toml")
}

fn strings(value: &toml::Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

/// Packages that a normal or a build dependency leads to, by id.
fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    let used: BTreeSet<_> = nodes.map(|node| text(node, "id").to_owned()).collect();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter(move |package| used.contains(text(package, "id")))
}

/// Whether an SPDX expression can be satisfied with the allowed licences. `OR` binds weaker than `AND`.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<_> = spaced.split_whitespace().collect();
    let mut at = 0;
    any_of(&tokens, &mut at, allowed) && at == tokens.len()
}

fn any_of(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut holds = all_of(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        holds |= all_of(tokens, at, allowed);
    }
    holds
}

fn all_of(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut holds = one(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        holds &= one(tokens, at, allowed);
    }
    holds
}

fn one(tokens: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(first) = tokens.get(*at) else { return false };
    *at += 1;
    if *first == "(" {
        let holds = any_of(tokens, at, allowed);
        let closed = tokens.get(*at) == Some(&")");
        *at += 1;
        return holds && closed;
    }
    let mut licence = (*first).to_owned();
    if tokens.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", tokens.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&licence)
}

#[test]
fn every_dependency_has_a_licence_that_the_policy_allows() {
    let (metadata, policy) = (metadata(), policy());
    let allowed = strings(&policy["licenses"]["allow"]);
    let refused = packages(&metadata).filter(|package| !satisfied(text(package, "license"), &allowed));
    let line =
        |package| format!("{} {}: {:?}", text(package, "name"), text(package, "version"), package["license"]);
    check(refused.map(line).collect());
}

#[test]
fn no_banned_crate_is_depended_upon_and_all_come_from_the_public_registry() {
    let (metadata, policy) = (metadata(), policy());
    let banned = policy["bans"]["deny"].as_array().cloned().unwrap_or_default();
    let allowed = strings(&policy["sources"]["allow-registry"]);
    let mut wrong = Vec::new();
    for package in packages(&metadata) {
        let name = text(package, "name");
        if let Some(ban) = banned.iter().find(|ban| ban["crate"].as_str() == Some(name)) {
            wrong.push(format!("{name}: {}", ban["reason"]));
        }
        let source = text(package, "source");
        if !source.is_empty() && !allowed.iter().any(|allowed| source == format!("registry+{allowed}")) {
            wrong.push(format!("{name}: comes from {source}"));
        }
    }
    check(wrong);
}

#[test]
fn members_depend_downwards_only() {
    let may = |member: &str| -> Option<&[&str]> {
        match member {
            "disk" => Some(&[]),
            "protocol" => Some(&["disk"]),
            "video" => Some(&["protocol"]),
            "agent" | "store" => Some(&["protocol", "disk", "video"]),
            _ => None,
        }
    };
    let metadata = metadata();
    let ours: BTreeSet<_> = packages(&metadata)
        .filter(|package| package["source"].is_null())
        .map(|package| text(package, "name"))
        .collect();
    let mut wrong = Vec::new();
    for package in packages(&metadata).filter(|package| package["source"].is_null()) {
        let name = text(package, "name");
        let Some(may) = may(name) else { continue };
        let needs = package["dependencies"].as_array().into_iter().flatten();
        for need in needs.filter(|need| need["kind"].is_null()).map(|need| text(need, "name")) {
            let forbidden = ours.contains(need) && !may.contains(&need)
                || need == "tokio" && matches!(name, "protocol" | "disk" | "video");
            wrong.extend(forbidden.then(|| format!("{name} depends on {need}")));
        }
    }
    check(wrong);
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC"].map(str::to_owned).into();
    for (expression, want) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND ISC", true),
        ("MIT OR GPL-3.0 AND LGPL-3.0", true),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("Apache-2.0 WITH other-exception", false),
        ("", false),
        ("(MIT", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), want, "{expression}");
    }
}
