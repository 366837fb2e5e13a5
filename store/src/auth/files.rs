//! Writing the few files that hold keys and certificates: whole or not at all, durable, and closed to others.
//! Never: what is in them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The owner only: keys and secrets.
    Owner,
    /// Everybody: certificates.
    Everybody,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Access::Owner => 0o600,
            Access::Everybody => 0o644,
        }
    }
}

/// Makes a folder that only its owner may enter; no error where it exists.
///
/// # Errors
/// When it can't be made; the message names it.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| named("can't make folder", dir, &e))
}

/// Writes a file: the old or the new content is there after a crash, never a part.
///
/// # Errors
/// When it can't be written; the message names it.
pub fn replace(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    replace_unnamed(path, bytes, access).map_err(|e| named("can't write", path, &e))
}

/// The same for a file that only tells others what this process knows: one that says it already is left alone, and a
/// full disk is no reason not to go on. Says whether it is there.
///
/// # Errors
/// When it can't be written for another reason; the message names it.
pub fn replace_copy(path: &Path, bytes: &[u8], access: Access) -> io::Result<bool> {
    if std::fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(true);
    }
    match replace(path, bytes, access) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => Ok(false),
        written => written.map(|()| true),
    }
}

fn replace_unnamed(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = Path::new(&tmp);
    match std::fs::remove_file(tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let written = write_and_rename(tmp, path, bytes, access);
    if written.is_err() {
        // The next call would clear it away too; this gives the space back now.
        let _ = std::fs::remove_file(tmp);
    }
    written
}

#[expect(
    clippy::disallowed_methods,
    reason = "synced before and after; `disk` can't make a file that is closed to others"
)]
fn write_and_rename(tmp: &Path, path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(tmp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(tmp, path)?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Reads a small text file; `None` where there is none.
///
/// # Errors
/// When it is there and can't be read; the message names it.
pub fn read_text(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(named("can't read", path, &e)),
    }
}

fn named(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_closed_to_others_from_its_first_byte_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.key");
        replace(&path, b"one", Access::Owner).unwrap();
        replace(&path, b"two", Access::Owner).unwrap();
        assert_eq!(read_text(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_text(&dir.path().join("none")).unwrap(), None);
    }
}
