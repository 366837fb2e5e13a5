//! Hints from the operating system that files changed. Only hints: they may be late, too many or lost, and the
//! poll finds what they miss. They are folded into a bounded set, never queued.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::hub::Hub;
use crate::log::Log;

/// See the module.
pub(crate) struct Watcher {
    inner: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    log: Log,
}

impl Watcher {
    /// Watches nothing yet; never anything where it is not `wanted`.
    pub(crate) fn new(hub: Arc<Hub>, log: Log, wanted: bool) -> Watcher {
        let make = || notify::recommended_watcher(move |event| hint(&hub, event));
        let inner = wanted.then(make).and_then(|made| {
            made.inspect_err(|error| {
                log.warn("watch", &format!("no hints of changed files, polling only: {error}"));
            })
            .ok()
        });
        Watcher { inner, watched: BTreeSet::new(), log }
    }

    /// Watches these folders, and no others.
    pub(crate) fn watch(&mut self, folders: impl Iterator<Item = PathBuf>) {
        let Some(inner) = &mut self.inner else { return };
        let wanted: BTreeSet<PathBuf> = folders.collect();
        for gone in self.watched.difference(&wanted) {
            // It may be gone already.
            let _ = inner.unwatch(gone);
        }
        self.watched.retain(|dir| wanted.contains(dir));
        for dir in wanted {
            if self.watched.contains(&dir) {
                continue;
            }
            match inner.watch(&dir, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.watched.insert(dir)),
                Err(error) => {
                    self.log.warn("watch", &format!("{}: no hints, polling only: {error}", dir.display()));
                }
            }
        }
    }
}

fn hint(hub: &Hub, event: notify::Result<notify::Event>) {
    let Ok(event) = event else { return hub.file_changed(None) };
    if event.need_rescan() {
        return hub.file_changed(None);
    }
    match event.kind {
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => {}
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => {
            event.paths.into_iter().for_each(|path| hub.file_changed(Some(path)));
        }
        _ => hub.file_changed(None),
    }
}
