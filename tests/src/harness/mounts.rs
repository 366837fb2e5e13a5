//! File systems of a test's own: small ones in memory, and what is needed to fill them. Mounting needs root; where that
//! is not to be had, the caller is told why. Nothing here knows who will write there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file system that is there as long as this is.
#[derive(Debug)]
pub struct Mount {
    dir: tempfile::TempDir,
}

impl Mount {
    /// A file system in memory of so many MiB.
    ///
    /// # Errors
    /// With what the system says where it may not be mounted.
    pub fn memory(mib: u64) -> io::Result<Mount> {
        let size = format!("size={mib}m,nr_inodes=0");
        Mount::with(&["-t", "tmpfs", "-o", &size, "tmpfs"].map(OsStr::new))
    }

    /// The file system in an image file.
    ///
    /// # Errors
    /// As [`memory`](Self::memory).
    pub fn image(image: &Path) -> io::Result<Mount> {
        Mount::with(&[OsStr::new("-o"), OsStr::new("loop"), image.as_os_str()])
    }

    /// The same of a copy whose original is mounted (XFS does not like to see itself twice).
    ///
    /// # Errors
    /// As [`memory`](Self::memory).
    pub fn copy_of_image(image: &Path, kind: &str) -> io::Result<Mount> {
        let options = if kind == "xfs" { "loop,nouuid" } else { "loop" };
        Mount::with(&[OsStr::new("-o"), OsStr::new(options), image.as_os_str()])
    }

    fn with(words: &[&OsStr]) -> io::Result<Mount> {
        let dir = tempfile::tempdir()?;
        let words = [words, &[dir.path().as_os_str()]].concat();
        run("mount", &words)?;
        Ok(Mount { dir })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Bytes that may still be written.
    ///
    /// # Errors
    /// When the system can't say.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(self.dir.path())?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Fills it with a file until only so many bytes are free. Removing the file gives them back.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn fill(&self, leave: u64) -> io::Result<PathBuf> {
        let path = self.dir.path().join("filler");
        let mut file = File::options().create(true).append(true).open(&path)?;
        let block = vec![0x55; 64 << 10];
        loop {
            let more = self.free_bytes()?.saturating_sub(leave).min(block.len() as u64);
            let part = usize::try_from(more).unwrap_or_default();
            match file.write_all(&block[..part]) {
                Ok(()) if part > 0 => {}
                Err(error) if error.kind() != io::ErrorKind::StorageFull => return Err(error),
                _ => return Ok(path),
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whoever still has a file open there may keep it a little longer: it goes when they do.
        let _ = run("umount", &["-l".as_ref(), self.dir.path().as_os_str()]);
    }
}

/// Runs a program of the system to its end, which must be a good one.
///
/// # Errors
/// With what it said.
pub fn run(program: &str, words: &[&OsStr]) -> io::Result<String> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {words:?}: {}: {}", output.status, said.trim())))
}
