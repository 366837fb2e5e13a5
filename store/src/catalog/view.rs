//! The catalog in sled: derived from the catalog log, never evidence about it. It saves the replay at start, and
//! is moved aside and made anew whenever it is damaged, behind or absent.
//!
//! Keys: `s/NAME` and `t/HASH` (JSON entries), `m/next_dir` (u32), `m/applied` (u64: the place in the catalog log
//! up to which the changes are in here), little-endian.
//!
//! Why so careful (sled 0.34.7, measured): `flush` does not reach the disk, a flipped bit can panic inside `open`
//! or drop keys without a word. So: opened behind a guard, and believed only if `m/count` agrees.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use disk::Position;
use protocol::name::StreamName;

use super::{CatalogState, Change};

/// The view at work. Its failures are never the caller's: a view that fails is closed and made anew next time.
#[derive(Debug)]
pub struct View {
    db: sled::Db,
}

impl View {
    /// Opens the view in a folder of its own; moves a damaged one aside and begins anew. `None` where even that
    /// fails: the store goes on without.
    #[must_use]
    pub fn open(dir: &Path) -> Option<View> {
        open_guarded(dir).or_else(|| {
            move_aside(dir);
            open_guarded(dir)
        })
    }

    /// The state in here and the place in the catalog log up to which it is true.
    #[must_use]
    pub fn load(&self) -> Option<(CatalogState, Position)> {
        guarded(|| self.read().ok().flatten()).flatten()
    }

    fn read(&self) -> sled::Result<Option<(CatalogState, Position)>> {
        let (Some(applied), Some(next_dir)) = (self.number("m/applied")?, self.number("m/next_dir")?) else {
            return Ok(None);
        };
        let mut state = CatalogState { next_dir: next_dir as u32, ..CatalogState::default() };
        for item in self.db.scan_prefix("s/") {
            let (key, value) = item?;
            let name = std::str::from_utf8(&key[2..]).ok().and_then(|text| StreamName::new(text).ok());
            let (Some(name), Ok(entry)) = (name, serde_json::from_slice(&value)) else { return Ok(None) };
            state.streams.insert(name, entry);
        }
        for item in self.db.scan_prefix("t/") {
            let (key, value) = item?;
            let (Ok(hash), Ok(entry)) = (std::str::from_utf8(&key[2..]), serde_json::from_slice(&value))
            else {
                return Ok(None);
            };
            state.tokens.insert(hash.to_owned(), entry);
        }
        for item in self.db.scan_prefix("a/") {
            let (key, value) = item?;
            let (Ok(account), Ok(entry)) = (std::str::from_utf8(&key[2..]), serde_json::from_slice(&value))
            else {
                return Ok(None);
            };
            state.accounts.insert(account.to_owned(), entry);
        }
        let count = state.entries() as u64;
        Ok((self.number("m/count")? == Some(count)).then_some((state, Position(applied))))
    }

    fn number(&self, key: &str) -> sled::Result<Option<u64>> {
        let value = self.db.get(key)?;
        Ok(value.and_then(|bytes| bytes.as_ref().try_into().ok().map(u64::from_le_bytes)))
    }

    /// Puts a whole state in the place of what is there.
    pub fn replace(&self, state: &CatalogState, applied: Position) {
        guarded(|| {
            if self.read().ok().flatten().is_some_and(|(known, at)| known == *state && at == applied) {
                return;
            }
            let written = self.db.clear().and_then(|()| {
                let mut batch = sled::Batch::default();
                for (name, entry) in &state.streams {
                    batch.insert(format!("s/{name}").as_str(), serde_json::to_vec(entry).unwrap_or_default());
                }
                for (hash, entry) in &state.tokens {
                    batch.insert(format!("t/{hash}").as_str(), serde_json::to_vec(entry).unwrap_or_default());
                }
                for (name, entry) in &state.accounts {
                    batch.insert(format!("a/{name}").as_str(), serde_json::to_vec(entry).unwrap_or_default());
                }
                let count = state.entries() as u64;
                batch.insert("m/count", &count.to_le_bytes());
                batch.insert("m/next_dir", &u64::from(state.next_dir).to_le_bytes());
                batch.insert("m/applied", &applied.0.to_le_bytes());
                self.db.apply_batch(batch)
            });
            // Derived: if it can't be written now, it is made anew at the next start.
            drop(written);
        });
    }

    /// One change more. Costs the change, not the catalog.
    pub fn apply(&self, change: &Change, applied: Position) {
        guarded(|| drop(self.try_apply(change, applied)));
    }

    fn try_apply(&self, change: &Change, applied: Position) -> sled::Result<()> {
        let (Some(mut count), Some(mut next_dir)) = (self.number("m/count")?, self.number("m/next_dir")?)
        else {
            return Ok(());
        };
        let mut batch = sled::Batch::default();
        let (key, value) = match change {
            Change::PutStream { name, entry } => {
                next_dir = next_dir.max(u64::from(entry.dir) + 1);
                (format!("s/{name}"), serde_json::to_vec(entry).ok())
            }
            Change::RemoveStream { name } => (format!("s/{name}"), None),
            Change::PutToken { hash, entry } => (format!("t/{hash}"), serde_json::to_vec(entry).ok()),
            Change::RemoveToken { hash } => (format!("t/{hash}"), None),
            Change::PutAccount { account, entry } => (format!("a/{account}"), serde_json::to_vec(entry).ok()),
        };
        let had = self.db.contains_key(&key)?;
        count = count + u64::from(value.is_some()) - u64::from(had);
        match value {
            Some(value) => batch.insert(key.as_str(), value),
            None => batch.remove(key.as_str()),
        }
        batch.insert("m/count", &count.to_le_bytes());
        batch.insert("m/next_dir", &next_dir.to_le_bytes());
        batch.insert("m/applied", &applied.0.to_le_bytes());
        self.db.apply_batch(batch)
    }

    /// Lets it reach the disk, as far as sled does that.
    pub fn flush(&self) {
        guarded(|| drop(self.db.flush()));
    }
}

fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

fn open_guarded(dir: &Path) -> Option<View> {
    let config = sled::Config::new().path(dir).cache_capacity(1 << 20).flush_every_ms(None);
    let view = guarded(|| config.open().ok()).flatten().map(|db| View { db })?;
    guarded(|| view.read().is_ok()).unwrap_or(false).then_some(view)
}

fn move_aside(dir: &Path) {
    let bad = |n: u32| PathBuf::from(format!("{}.bad-{n}", dir.display()));
    if let Some(free) = (1..1000).map(bad).find(|path| !path.exists()) {
        #[expect(clippy::disallowed_methods, reason = "derived data, whose rename need not be durable")]
        let moved = std::fs::rename(dir, free);
        // If it can't be moved it can't be opened either, and the store goes on without a view.
        drop(moved);
    }
}

#[cfg(test)]
mod tests {
    use protocol::stream::StreamConfig;
    use protocol::time::UnixMs;

    use super::super::StreamEntry;
    use super::*;

    #[test]
    fn what_was_put_in_is_loaded_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        let name = StreamName::new("logs").unwrap();
        let entry = StreamEntry {
            dir: 3,
            created: UnixMs(1),
            config: StreamConfig::default(),
            traits: Default::default(),
        };
        let mut state = CatalogState::default();
        state.apply(&Change::PutStream { name: name.clone(), entry });
        let view = View::open(&path).unwrap();
        assert_eq!(view.load(), None);
        view.replace(&state, Position(70));
        view.flush();
        drop(view);
        let view = View::open(&path).unwrap();
        assert_eq!(view.load(), Some((state.clone(), Position(70))));
        view.apply(&Change::RemoveStream { name: name.clone() }, Position(90));
        state.apply(&Change::RemoveStream { name });
        assert_eq!(view.load(), Some((state, Position(90))));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "it damages files on purpose")]
    fn a_damaged_view_is_moved_aside_and_never_takes_the_store_down() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("view");
        drop(View::open(&path).unwrap());
        let db = path.join("db");
        let mut bytes = std::fs::read(&db).unwrap();
        for byte in bytes.iter_mut().take(4096) {
            *byte ^= 0xff;
        }
        std::fs::File::create(&db).and_then(|mut f| std::io::Write::write_all(&mut f, &bytes)).unwrap();
        std::fs::File::create(path.join("conf"))
            .and_then(|mut f| std::io::Write::write_all(&mut f, b"??"))
            .unwrap();
        let view = View::open(&path).expect("a new one is made");
        assert_eq!(view.load(), None);
    }
}
