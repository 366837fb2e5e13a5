//! The names of files and folders: as the processes see them, as the device has them, and what lies between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::chance::Chance;
use crate::{DirName, FileName};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(u64),
}

type Map = BTreeMap<String, Node>;

#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    live: Map,
    durable: Map,
    pending: Vec<Change>,
}

/// Names that change together or not at all.
#[derive(Debug, Clone)]
struct Change {
    set: Vec<(String, Option<Node>)>,
}

impl Names {
    pub(super) fn file(&self, file: &FileName) -> io::Result<u64> {
        match self.live.get(file.as_str()) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create(&mut self, file: &FileName, inode: u64) -> io::Result<()> {
        self.need_dir(&file.parent())?;
        self.change(vec![(file.as_str().to_owned(), Some(Node::File(inode)))]);
        Ok(())
    }

    pub(super) fn create_dir(&mut self, dir: &DirName, durably: bool) -> io::Result<()> {
        for folder in dir.lineage() {
            match self.live.get(folder.as_str()) {
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                Some(Node::Dir) => {}
                None => self.change(vec![(folder.as_str().to_owned(), Some(Node::Dir))]),
            }
            if durably {
                self.sync_dir(&folder.parent().unwrap_or_else(DirName::root))?;
            }
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &FileName, to: &FileName) -> io::Result<()> {
        let inode = self.file(from)?;
        self.need_dir(&to.parent())?;
        if self.live.get(to.as_str()) == Some(&Node::Dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from != to {
            let (from, to) = (from.as_str().to_owned(), to.as_str().to_owned());
            self.change(vec![(from, None), (to, Some(Node::File(inode)))]);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, file: &FileName) -> io::Result<()> {
        self.file(file)?;
        self.change(vec![(file.as_str().to_owned(), None)]);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, dir: &DirName) -> io::Result<()> {
        if dir.is_root() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.need_dir(dir)?;
        if !self.list(dir)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(vec![(dir.as_str().to_owned(), None)]);
        Ok(())
    }

    /// Names in a folder, sorted; none where there is no such folder.
    pub(super) fn list(&self, dir: &DirName) -> io::Result<Vec<(FileName, Node)>> {
        if let Some(Node::File(_)) = self.live.get(dir.as_str()) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let prefix = if dir.is_root() { String::new() } else { format!("{dir}/") };
        let below = self.live.range(prefix.clone()..).take_while(|(name, _)| name.starts_with(&prefix));
        let children = below.filter(|(name, _)| !name[prefix.len()..].contains('/'));
        Ok(children.map(|(name, node)| (file_name(name), *node)).collect())
    }

    /// Whether a name was removed or replaced by it.
    pub(super) fn sync_dir(&mut self, dir: &DirName) -> io::Result<bool> {
        self.need_dir(dir)?;
        let mut removed = false;
        let (due, rest) =
            std::mem::take(&mut self.pending).into_iter().partition(|change| change.touches(dir));
        self.pending = rest;
        for change in due {
            let change: Change = change;
            removed |= change.apply(&mut self.durable);
        }
        Ok(removed)
    }

    pub(super) fn crash(&mut self, chance: Option<&mut Chance>, keep: bool) {
        let pending = std::mem::take(&mut self.pending);
        let kept = match chance {
            None if keep => pending,
            None => Vec::new(),
            Some(chance) => choose(pending, chance),
        };
        for change in kept {
            change.apply(&mut self.durable);
        }
        let dirs: BTreeSet<String> = self.reachable_dirs();
        self.durable.retain(|name, _| dirs.contains(parent(name)));
        self.live = self.durable.clone();
    }

    /// Every file that processes can see.
    pub(super) fn files(&self) -> impl Iterator<Item = (FileName, u64)> {
        self.live.iter().filter_map(|(name, node)| match node {
            Node::File(inode) => Some((file_name(name), *inode)),
            Node::Dir => None,
        })
    }

    /// Every file that may still be found by a name, now or after a crash.
    pub(super) fn inodes(&self) -> BTreeSet<u64> {
        let pending = self.pending.iter().flat_map(|change| change.set.iter().filter_map(|(_, node)| *node));
        let all = self.live.values().chain(self.durable.values()).copied().chain(pending);
        all.filter_map(|node| if let Node::File(inode) = node { Some(inode) } else { None }).collect()
    }

    fn need_dir(&self, dir: &DirName) -> io::Result<()> {
        match self.live.get(dir.as_str()) {
            _ if dir.is_root() => Ok(()),
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn change(&mut self, set: Vec<(String, Option<Node>)>) {
        let change = Change { set };
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    /// Folders whose whole lineage exists; a parent sorts before its children.
    fn reachable_dirs(&self) -> BTreeSet<String> {
        let mut reachable = BTreeSet::from([String::new()]);
        for (name, node) in &self.durable {
            if *node == Node::Dir && reachable.contains(parent(name)) {
                reachable.insert(name.clone());
            }
        }
        reachable
    }
}

impl Change {
    fn touches(&self, dir: &DirName) -> bool {
        self.set.iter().any(|(name, _)| parent(name) == dir.as_str())
    }

    /// Whether a name was removed or replaced.
    fn apply(&self, map: &mut Map) -> bool {
        let mut removed = false;
        for (name, node) in &self.set {
            let old = match node {
                Some(node) => map.insert(name.clone(), *node),
                None => map.remove(name),
            };
            removed |= old.is_some();
        }
        removed
    }
}

/// None, all, those from the first on up to some, or any.
fn choose(pending: Vec<Change>, chance: &mut Chance) -> Vec<Change> {
    match chance.below(4) {
        0 => Vec::new(),
        1 => pending,
        2 => {
            let kept = chance.below(pending.len() as u64 + 1) as usize;
            pending.into_iter().take(kept).collect()
        }
        _ => pending.into_iter().filter(|_| chance.coin()).collect(),
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn file_name(name: &str) -> FileName {
    FileName::new(name).expect("only checked names get here")
}
