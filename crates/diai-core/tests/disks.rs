//! Every disk keeps the same promises: one suite, run on each.

use std::io::ErrorKind;

use diai_core::{
    Disk, EntryKind, FileAttributes, FileTime, OpenMode, memory::MemoryDisk, os::FsDisk, write_atomically,
};

fn on_every_disk(check: impl Fn(&dyn Disk)) {
    check(&MemoryDisk::new());
    let folder = tempfile::tempdir().expect("a temporary folder");
    check(&FsDisk::open(folder.path().join("disk")).expect("opens"));
}

#[test]
fn what_is_written_is_read_and_a_read_past_the_end_is_short() {
    on_every_disk(|disk| {
        disk.create_folder("a/b").expect("makes");
        let file = disk.open("a/b/c", OpenMode::CreateNew).expect("opens");
        file.write_at(3, b"def").expect("writes");
        file.write_at(0, b"abc").expect("writes");
        file.sync().expect("syncs");
        let mut read = [0; 8];
        let file = disk.open("a/b/c", OpenMode::Read).expect("opens");
        assert_eq!((file.read_at(1, &mut read).expect("reads"), &read[..5]), (5, &b"bcdef"[..]));
        assert_eq!(file.read_at(99, &mut read).expect("reads"), 0);
        assert!(file.write_at(0, b"x").is_err());
        let entries = disk.list("a/b").expect("lists");
        assert_eq!((entries.len(), entries[0].name.as_str(), entries[0].bytes), (1, "c", 6));
        assert_eq!(disk.list("").expect("lists")[0].kind, EntryKind::Folder);
    });
}

#[test]
fn nothing_outside_the_disk_is_reached() {
    on_every_disk(|disk| {
        disk.create_link("out", "/etc").expect("links");
        for path in ["/etc/passwd", "../x", "a/../../x", "out/passwd", "out", "nul\0"] {
            let error = disk.open(path, OpenMode::Read).map(drop).expect_err(path);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{path:?}: {error}");
        }
        assert_eq!(disk.create_folder("out/made").expect_err("a link").kind(), ErrorKind::InvalidInput);
        assert_eq!(disk.read_link("out").expect("reads"), "/etc");
        disk.remove("out").expect("removes the link itself");
        assert!(disk.entry("out").is_err());
    });
}

#[test]
fn an_atomic_write_replaces_the_whole_even_after_one_that_was_cut_short() {
    on_every_disk(|disk| {
        write_atomically(disk, "file", b"old").expect("writes");
        disk.open("file.new", OpenMode::CreateNew)
            .expect("a left-over")
            .write_at(0, b"half of a longer")
            .expect("writes");
        write_atomically(disk, "file", b"new").expect("writes");
        let mut read = [0; 8];
        assert_eq!(disk.open("file", OpenMode::Read).expect("opens").read_at(0, &mut read).expect("reads"), 3);
        assert_eq!(&read[..3], b"new");
        assert!(disk.entry("file.new").is_err());
    });
}

#[test]
fn a_lock_is_exclusive_until_it_is_dropped() {
    on_every_disk(|disk| {
        let lock = disk.lock("lock").expect("free");
        assert_eq!(disk.lock("lock").map(drop).expect_err("held").kind(), ErrorKind::WouldBlock);
        drop(lock);
        disk.lock("lock").expect("free again");
    });
}

#[test]
fn a_new_file_must_be_new_and_an_old_one_old() {
    on_every_disk(|disk| {
        disk.open("file", OpenMode::CreateNew).expect("new");
        assert_eq!(
            disk.open("file", OpenMode::CreateNew).map(drop).expect_err("there").kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(disk.open("none", OpenMode::Read).map(drop).expect_err("missing").kind(), ErrorKind::NotFound);
        disk.rename("file", "moved").expect("moves");
        assert_eq!(disk.entry("moved").expect("there").kind, EntryKind::File);
        assert!(disk.entry("file").is_err());
    });
}

#[test]
fn attributes_that_were_set_are_found_and_links_have_none_to_set() {
    on_every_disk(|disk| {
        disk.create_folder("folder").expect("makes");
        disk.open("folder/file", OpenMode::CreateNew).expect("opens");
        disk.create_link("link", "folder/file").expect("links");
        let attributes =
            FileAttributes { mode: Some(0o640), mtime: Some(FileTime { seconds: -28_670_094, nanos: 500_000_000 }) };
        disk.set_attributes("folder/file", attributes).expect("sets");
        assert_eq!(disk.attributes("folder/file").expect("finds"), attributes);
        let mode = FileAttributes { mode: Some(0o700), mtime: None };
        disk.set_attributes("folder/file", mode).expect("sets");
        assert_eq!(disk.attributes("folder/file").expect("finds"), FileAttributes { mtime: attributes.mtime, ..mode });
        disk.set_attributes("folder", attributes).expect("sets");
        assert_eq!(disk.attributes("folder").expect("finds"), attributes);
        assert_eq!(disk.set_attributes("link", attributes).expect_err("a link").kind(), ErrorKind::InvalidInput);
        assert_eq!(disk.attributes("none").expect_err("is not there").kind(), ErrorKind::NotFound);
    });
}
