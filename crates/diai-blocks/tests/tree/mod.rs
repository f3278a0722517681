//! Files, links and folders as a value, on a disk and off it.

#![allow(unreachable_pub, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::BTreeMap;

use diai_core::{Disk, EntryKind, OpenMode};

#[derive(Clone, PartialEq, Eq)]
pub enum Tree {
    File(Vec<u8>),
    Link(String),
    Folder(BTreeMap<String, Tree>),
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(content) => write!(f, "File({} bytes)", content.len()),
            Self::Link(target) => write!(f, "Link({target:?})"),
            Self::Folder(entries) => f.debug_map().entries(entries).finish(),
        }
    }
}

pub fn write(disk: &dyn Disk, path: &str, tree: &Tree) {
    match tree {
        Tree::File(content) => disk.open(path, OpenMode::CreateNew).unwrap().write_at(0, content).unwrap(),
        Tree::Link(target) => disk.create_link(path, target).unwrap(),
        Tree::Folder(entries) => {
            disk.create_folder(path).unwrap();
            for (name, tree) in entries {
                write(disk, &format!("{path}/{name}"), tree);
            }
        }
    }
}

pub fn read(disk: &dyn Disk, path: &str) -> Tree {
    match disk.entry(path).unwrap().kind {
        EntryKind::File => {
            let file = disk.open(path, OpenMode::Read).unwrap();
            let mut content = vec![0; file.len().unwrap() as usize];
            file.read_exact_at(0, &mut content).unwrap();
            Tree::File(content)
        }
        EntryKind::Symlink => Tree::Link(disk.read_link(path).unwrap()),
        EntryKind::Folder => {
            let inner = |name: String| (name.clone(), read(disk, &format!("{path}/{name}")));
            Tree::Folder(disk.list(path).unwrap().into_iter().map(|entry| inner(entry.name)).collect())
        }
    }
}
