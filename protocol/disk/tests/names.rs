//! Names: what is refused, so that no name leaves the root.

use disk::{DirName, FileName};

#[test]
fn names_that_could_leave_the_root_are_refused() {
    let long = "x".repeat(256);
    let longer = ["x"; 600].join("/");
    let bad = [
        "",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "a/../b",
        "../a",
        "a/..",
        "a//b",
        "a/",
        "/a",
        "./a",
        "a/./b",
        "a b",
        "a\0",
        "a\\b",
        "%2e%2e",
        "\u{e4}",
        "a\n",
        "~",
        "C:",
        "*",
        &long,
        &longer,
    ];
    for name in bad {
        assert!(FileName::new(name).is_err(), "{name:?}");
        assert!(DirName::new(name).is_err(), "{name:?}");
        assert!(DirName::root().file(name).is_err(), "{name:?}");
        assert!(DirName::new("d").unwrap().dir(name).is_err(), "{name:?}");
        assert!(DirName::new("d").unwrap().file(name).is_err(), "{name:?}");
    }
    let text = FileName::new("a/../b").unwrap_err().to_string();
    assert_eq!(text, "\"a/../b\" is not a usable file name: `.` and `..` are not names");
}

#[test]
fn names_are_joined_and_taken_apart() {
    let dir = DirName::root().dir("streams").unwrap().dir("7").unwrap();
    let file = dir.file("x_1-2.log").unwrap();
    assert_eq!(file.as_str(), "streams/7/x_1-2.log");
    assert_eq!((file.base(), file.parent()), ("x_1-2.log", dir.clone()));
    assert_eq!(dir.parent(), Some(DirName::new("streams").unwrap()));
    assert_eq!(DirName::root().parent(), None);
    assert_eq!(DirName::root().file("x").unwrap().parent(), DirName::root());
    assert_eq!(file.with_suffix(".tmp").unwrap().base(), "x_1-2.log.tmp");
    assert!(file.with_suffix("/../..").is_err());
    assert_eq!((DirName::root().to_string().as_str(), dir.to_string().as_str()), (".", "streams/7"));
    assert!(["...", "..a", ".hidden", "-"].iter().all(|name| FileName::new(name).is_ok()));
}
