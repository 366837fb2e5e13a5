//! A bound on memory that the kernel holds: a control group of a test's own, of either version. Needs root.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::process::Launch;

/// A group that is there as long as this is.
#[derive(Debug)]
pub struct MemoryGroup {
    dir: PathBuf,
}

impl MemoryGroup {
    /// A group whose processes may have so many bytes together, cached files included; there is no swap for more.
    ///
    /// # Errors
    /// With what the system says where it allows none.
    pub fn new(bytes: u64) -> io::Result<MemoryGroup> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (parent, limit) = place()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("kinesin-test-{}-{number}", std::process::id()));
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
        std::fs::create_dir(&dir).map_err(named)?;
        let group = MemoryGroup { dir: dir.clone() };
        std::fs::write(group.dir.join(limit), bytes.to_string()).map_err(named)?;
        Ok(group)
    }

    /// Starts a program in it.
    #[must_use]
    pub fn launch(&self) -> Launch {
        let enter = format!("echo $$ > {} && exec \"$0\" \"$@\"", self.dir.join("cgroup.procs").display());
        Launch { prefix: ["sh", "-c", &enter].map(str::to_owned).to_vec(), env: Vec::new() }
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // Whoever was in it must be gone first; what is left over holds nothing but its name.
        let gone = || std::fs::remove_dir(&self.dir).is_ok();
        crate::clock::eventually(std::time::Duration::from_secs(5), gone);
    }
}

/// Where groups are made, and the file that bounds one.
fn place() -> io::Result<(PathBuf, &'static str)> {
    let unified = Path::new("/sys/fs/cgroup");
    let controllers = std::fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
    if controllers.split_whitespace().any(|controller| controller == "memory") {
        // Not an error where it is on already, or where the first group says that it is not.
        let _ = std::fs::write(unified.join("cgroup.subtree_control"), "+memory");
        return Ok((unified.to_owned(), "memory.max"));
    }
    let first = unified.join("memory");
    if first.join("memory.limit_in_bytes").is_file() {
        return Ok((first, "memory.limit_in_bytes"));
    }
    Err(io::Error::other("no control group for memory"))
}
