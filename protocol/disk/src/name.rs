//! Names of files and folders below a disk's root: validated once, so that no later join can leave the root.
//! Nothing here touches a file system, and nothing here knows what a file is for.

use std::fmt;
use std::sync::Arc;

/// Longest name, in bytes, all components and separators together.
pub const NAME_BYTES_MAX: usize = 1024;
/// Longest component of a name, in bytes; what common file systems allow.
pub const COMPONENT_BYTES_MAX: usize = 255;

/// A name that cannot be used for a file or a folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a usable file name: {reason}")]
pub struct NameError {
    /// The name as it was given, cut where it is very long.
    pub name: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A file below the disk's root: one or more components of `[A-Za-z0-9._-]+`, separated by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Arc<str>);

/// A folder below the disk's root, or the root itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirName(Arc<str>);

impl FileName {
    /// Checks a name relative to the root. Refuses empty names, `.`, `..`, absolute paths and odd characters.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name)?;
        Ok(Self(name.into()))
    }

    /// The whole name relative to the root, as `streams/7/log`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component, as `log`.
    pub fn base(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The folder that holds this file.
    pub fn parent(&self) -> DirName {
        parent_of(&self.0)
    }

    /// The same name with `suffix` added to its last component, as `x` and `.tmp`.
    pub fn with_suffix(&self, suffix: &str) -> Result<FileName, NameError> {
        FileName::new(&format!("{}{suffix}", self.0))
    }
}

impl DirName {
    /// The root itself.
    pub fn root() -> Self {
        Self("".into())
    }

    /// Checks a name relative to the root, by the same rules as for files.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check(name)?;
        Ok(Self(name.into()))
    }

    /// A file in this folder; `name` may have several components.
    pub fn file(&self, name: &str) -> Result<FileName, NameError> {
        check(name)?;
        FileName::new(&self.join(name))
    }

    /// A folder in this folder; `name` may have several components.
    pub fn dir(&self, name: &str) -> Result<DirName, NameError> {
        check(name)?;
        DirName::new(&self.join(name))
    }

    /// The name relative to the root; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The folder that holds this one; `None` for the root.
    pub fn parent(&self) -> Option<DirName> {
        (!self.is_root()).then(|| parent_of(&self.0))
    }

    /// This folder and all above it up to, and without, the root; the outermost first.
    pub(crate) fn lineage(&self) -> Vec<DirName> {
        let mut all = Vec::new();
        let mut at = self.clone();
        while let Some(parent) = at.parent() {
            all.push(at);
            at = parent;
        }
        all.reverse();
        all
    }

    fn join(&self, name: &str) -> String {
        if self.is_root() { name.to_owned() } else { format!("{}/{name}", self.0) }
    }
}

fn parent_of(name: &str) -> DirName {
    name.rsplit_once('/').map_or_else(DirName::root, |(parent, _)| DirName(parent.into()))
}

fn check(name: &str) -> Result<(), NameError> {
    let refuse = |reason| {
        let name = name.chars().take(100).collect();
        Err(NameError { name, reason })
    };
    if name.len() > NAME_BYTES_MAX {
        return refuse("longer than 1024 bytes");
    }
    for component in name.split('/') {
        if component.is_empty() {
            return refuse("an empty component");
        }
        if component == "." || component == ".." {
            return refuse("`.` and `..` are not names");
        }
        if component.len() > COMPONENT_BYTES_MAX {
            return refuse("a component longer than 255 bytes");
        }
        if !component.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return refuse("only A-Z a-z 0-9 . _ - are allowed");
        }
    }
    Ok(())
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileName({})", self.0)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DirName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DirName({self})")
    }
}

impl fmt::Display for DirName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_root() { "." } else { &self.0 })
    }
}
