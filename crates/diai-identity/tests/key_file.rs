//! The key file: what is kept, what is refused, and that an error changes nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{At, Counting, DAY, NOW};
use diai_core::{
    Disk, DiskFile, DiskLock, Entry, OpenMode, WallTime,
    memory::MemoryDisk,
    os::{FsDisk, OsEntropy},
};
use diai_identity::key_file::{Cost, KeyFile, KeyFileError};
use sha2::{Digest, Sha256};

/// The least that Argon2id takes, so that tests are quick.
const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };
const WORD: Option<&str> = Some("correct horse");
/// Where the content of an encrypted file begins: magic, version, kind, cost, salt, nonce.
const HEADER_BYTES: usize = 8 + 1 + 1 + 12 + 16 + 24;

fn open_at(disk: &dyn Disk, now: WallTime, passphrase: Option<&str>) -> Result<KeyFile, KeyFileError> {
    KeyFile::open_or_create_with_cost(disk, &At(now), &OsEntropy, passphrase, CHEAP)
}

fn open(disk: &dyn Disk, passphrase: Option<&str>) -> Result<KeyFile, KeyFileError> {
    open_at(disk, NOW, passphrase)
}

fn read(disk: &dyn Disk) -> Vec<u8> {
    let file = disk.open(KeyFile::PATH, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

fn write(disk: &dyn Disk, bytes: &[u8]) {
    diai_core::write_atomically(disk, KeyFile::PATH, bytes).unwrap();
}

/// Puts the right checksum under `bytes`, as somebody would who changes the file on purpose.
fn write_with_checksum(disk: &dyn Disk, bytes: &[u8]) {
    let content = &bytes[..bytes.len() - 32];
    write(disk, &[content, &Sha256::digest(content)].concat());
}

fn made(passphrase: Option<&str>) -> (MemoryDisk, KeyFile) {
    let disk = MemoryDisk::new();
    let file = open(&disk, passphrase).unwrap();
    (disk, file)
}

#[test]
fn a_new_folder_gets_a_new_agent_and_keeps_it() {
    for passphrase in [None, WORD] {
        let (disk, file) = made(passphrase);
        assert!(file.is_new());
        let (first, bytes) = (file.identity(), read(&disk));
        drop(file);

        let again = open(&disk, passphrase).unwrap();
        assert!(!again.is_new());
        assert_eq!(again.is_encrypted(), passphrase.is_some());
        let second = again.identity();
        assert_eq!((first.agent(), first.peer()), (second.agent(), second.peer()));
        assert_eq!(first.certificate(), second.certificate());
        let sealed = first.encryption_key().seal(&OsEntropy, b"", b"x");
        assert_eq!(second.open_sealed(b"", &sealed).unwrap(), b"x");
        assert_eq!(read(&disk), bytes);
    }
}

#[test]
fn no_secret_stands_in_an_encrypted_file() {
    let disk = MemoryDisk::new();
    // Root, device and X25519 secrets are 32 times a number; the salt before them and the nonce after them are shorter.
    KeyFile::open_or_create_with_cost(&disk, &At(NOW), &Counting::from(1), WORD, CHEAP).unwrap();
    let bytes = read(&disk);
    assert!(bytes.windows(32).all(|window| window.iter().any(|byte| *byte != window[0])));

    let disk = MemoryDisk::new();
    KeyFile::open_or_create(&disk, &At(NOW), &Counting::from(1), None).unwrap();
    let plain = read(&disk);
    assert!(plain.windows(32).any(|window| window == [1; 32]), "the same look finds them in a plain one");
}

#[test]
fn each_mistake_has_its_own_error_and_changes_nothing() {
    let (disk, file) = made(WORD);
    drop(file);
    let bytes = read(&disk);
    assert!(matches!(open(&disk, Some("wrong")), Err(KeyFileError::WrongPassphrase)));
    assert!(matches!(open(&disk, None), Err(KeyFileError::PassphraseNeeded)));
    assert!(matches!(open(&disk, Some("")), Err(KeyFileError::EmptyPassphrase)));
    assert_eq!(read(&disk), bytes);
    assert!(open(&disk, WORD).is_ok(), "and no lock is left behind");

    let (disk, file) = made(None);
    drop(file);
    let bytes = read(&disk);
    assert!(matches!(open(&disk, WORD), Err(KeyFileError::NotEncrypted)));
    assert_eq!(read(&disk), bytes);
}

#[test]
fn an_empty_passphrase_makes_no_file() {
    let disk = MemoryDisk::new();
    assert!(matches!(open(&disk, Some("")), Err(KeyFileError::EmptyPassphrase)));
    assert_eq!(disk.list("").unwrap(), []);
}

#[test]
fn only_one_at_a_time_uses_the_folder() {
    let (disk, file) = made(None);
    assert!(matches!(open(&disk, None), Err(KeyFileError::Locked)));
    drop(file);
    assert!(open(&disk, None).is_ok());
}

#[test]
fn a_flipped_bit_in_any_byte_is_an_error_and_the_file_stays_as_it_is() {
    for passphrase in [None, WORD] {
        let (disk, file) = made(passphrase);
        drop(file);
        let bytes = read(&disk);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            write(&disk, &flipped);
            let error = open(&disk, passphrase).unwrap_err();
            let told = matches!(error, KeyFileError::Damaged { .. } | KeyFileError::UnknownFormat { .. });
            assert!(told, "byte {at}: {error}");
            assert_eq!(read(&disk), flipped);
        }
    }
}

#[test]
fn a_cut_or_extended_or_empty_file_is_damaged_and_never_replaced() {
    for passphrase in [None, WORD] {
        let (disk, file) = made(passphrase);
        drop(file);
        let bytes = read(&disk);
        let longer = [&bytes[..], &[0]].concat();
        let huge = vec![0; KeyFile::MAX_BYTES + 1];
        for wrong in (0..bytes.len()).map(|end| &bytes[..end]).chain([&longer[..], &huge[..]]) {
            write(&disk, wrong);
            assert!(matches!(open(&disk, passphrase), Err(KeyFileError::Damaged { .. })), "{} bytes", wrong.len());
            assert_eq!(read(&disk), wrong);
        }
    }
}

#[test]
fn short_files_with_a_right_checksum_are_damaged_too() {
    let (disk, file) = made(WORD);
    drop(file);
    let bytes = read(&disk);
    for end in 9..HEADER_BYTES {
        write_with_checksum(&disk, &[&bytes[..end], &[0; 32]].concat());
        assert!(matches!(open(&disk, WORD), Err(KeyFileError::Damaged { .. })), "{end} bytes");
    }
}

#[test]
fn a_file_of_a_newer_version_is_told_from_a_damaged_one() {
    let (disk, file) = made(None);
    drop(file);
    let mut bytes = read(&disk);
    bytes[8] = 2;
    write_with_checksum(&disk, &bytes);
    assert!(matches!(open(&disk, None), Err(KeyFileError::UnknownFormat { version: 2 })));
}

#[test]
fn the_header_of_an_encrypted_file_is_authenticated() {
    let (disk, file) = made(WORD);
    drop(file);
    let bytes = read(&disk);
    // Lowest byte of the passes, a byte of the salt, one of the nonce, one of the content, one of the tag.
    for at in [14, 25, 40, HEADER_BYTES + 3, bytes.len() - 33] {
        let mut forged = bytes.clone();
        forged[at] ^= 2;
        write_with_checksum(&disk, &forged);
        assert!(matches!(open(&disk, WORD), Err(KeyFileError::WrongPassphrase)), "byte {at}");
    }
}

#[test]
fn costs_beyond_the_limits_are_refused_before_they_are_paid() {
    let (disk, file) = made(WORD);
    drop(file);
    let bytes = read(&disk);
    let beyond = [
        Cost { memory_kib: Cost::MAX.memory_kib + 1, ..CHEAP },
        Cost { memory_kib: u32::MAX, passes: u32::MAX, lanes: u32::MAX },
        Cost { passes: Cost::MAX.passes + 1, ..CHEAP },
        Cost { lanes: Cost::MAX.lanes + 1, ..CHEAP },
        Cost { passes: 0, ..CHEAP },
        Cost { lanes: 0, ..CHEAP },
        Cost { memory_kib: 7, ..CHEAP },
    ];
    for cost in beyond {
        let mut forged = bytes.clone();
        for (at, number) in [(10, cost.memory_kib), (14, cost.passes), (18, cost.lanes)] {
            forged[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        write_with_checksum(&disk, &forged);
        assert!(matches!(open(&disk, WORD), Err(KeyFileError::Cost { cost: found }) if found == cost));

        let empty = MemoryDisk::new();
        let refused = KeyFile::open_or_create_with_cost(&empty, &At(NOW), &OsEntropy, WORD, cost);
        assert!(matches!(refused, Err(KeyFileError::Cost { .. })));
        assert!(empty.entry(KeyFile::PATH).is_err());
    }
}

#[test]
fn keys_and_certificate_that_do_not_belong_together_are_damage() {
    let (disk, file) = made(None);
    drop(file);
    let bytes = read(&disk);
    // The root's seed, the device's seed, the X25519 secret, each replaced.
    for start in [10, 42, 74] {
        let mut mixed = bytes.clone();
        mixed[start..start + 32].fill(7);
        write_with_checksum(&disk, &mixed);
        assert!(matches!(open(&disk, None), Err(KeyFileError::Damaged { .. })), "at {start}");
    }
}

#[test]
fn a_certificate_is_renewed_and_kept_when_less_than_half_of_its_life_is_left() {
    for passphrase in [None, WORD] {
        let (disk, file) = made(passphrase);
        let (first, bytes) = (file.identity().certificate(), read(&disk));
        drop(file);

        let file = open_at(&disk, NOW + 15 * DAY, passphrase).unwrap();
        assert_eq!(file.identity().certificate(), first);
        assert_eq!(read(&disk), bytes);
        drop(file);

        let later = NOW + 16 * DAY;
        let file = open_at(&disk, later, passphrase).unwrap();
        let second = file.identity().certificate();
        assert!(second.seq() > first.seq());
        assert_eq!(second.verify(later + 29 * DAY), Ok(()));
        assert_eq!((second.agent(), second.peer()), (first.agent(), first.peer()));
        drop(file);
        assert_eq!(open_at(&disk, later, passphrase).unwrap().identity().certificate(), second);

        // Long expired, and then a clock that was set back: still a valid one with a higher number.
        for now in [NOW + 400 * DAY, NOW.minus(100 * DAY)] {
            let renewed = open_at(&disk, now, passphrase).unwrap().identity().certificate();
            assert!(renewed.seq() > second.seq());
            assert_eq!(renewed.verify(now), Ok(()));
        }
    }
}

#[test]
fn a_certificate_renewed_while_running_is_kept_by_save() {
    let (disk, file) = made(WORD);
    let now = NOW + 20 * DAY;
    let renewed = futures::executor::block_on(file.identity().renew_certificate(now)).unwrap();
    file.save(&disk, &OsEntropy).unwrap();
    drop(file);
    assert_eq!(open_at(&disk, now, WORD).unwrap().identity().certificate(), renewed);
}

/// A disk that cannot rename when it is told so: it breaks down in the middle of an atomic write.
struct Breaking(MemoryDisk, AtomicBool);

impl Disk for Breaking {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path, mode)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if self.1.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { self.0.rename(from, to) }
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }
    fn create_folder(&self, path: &str) -> io::Result<()> {
        self.0.create_folder(path)
    }
    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        self.0.list(path)
    }
    fn entry(&self, path: &str) -> io::Result<Entry> {
        self.0.entry(path)
    }
    fn read_link(&self, path: &str) -> io::Result<String> {
        self.0.read_link(path)
    }
    fn create_link(&self, path: &str, target: &str) -> io::Result<()> {
        self.0.create_link(path, target)
    }
    fn sync_folder(&self, path: &str) -> io::Result<()> {
        self.0.sync_folder(path)
    }
    fn lock(&self, path: &str) -> io::Result<DiskLock> {
        self.0.lock(path)
    }
}

#[test]
fn a_disk_that_fails_while_a_certificate_is_renewed_leaves_the_old_file() {
    let disk = Breaking(MemoryDisk::new(), AtomicBool::new(false));
    let agent = open(&disk, None).unwrap().identity().agent();
    let bytes = read(&disk);
    disk.1.store(true, Ordering::Relaxed);
    assert!(matches!(open_at(&disk, NOW + 20 * DAY, None), Err(KeyFileError::Io { .. })));
    assert_eq!(read(&disk), bytes);

    disk.1.store(false, Ordering::Relaxed);
    let file = open_at(&disk, NOW + 20 * DAY, None).unwrap();
    assert_eq!(file.identity().agent(), agent);
    assert_eq!(file.identity().certificate().not_before(), NOW + 20 * DAY);
}

#[test]
fn the_default_cost_is_64_mib_and_three_passes() {
    let disk = MemoryDisk::new();
    KeyFile::open_or_create(&disk, &At(NOW), &OsEntropy, WORD).unwrap();
    let numbers: Vec<u32> =
        read(&disk)[10..22].chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
    assert_eq!(numbers, [65_536, 3, 1]);
    assert!(KeyFile::open_or_create(&disk, &At(NOW + Duration::from_secs(1)), &OsEntropy, WORD).is_ok());
}

/// Tells the second process which folder to try.
const FOLDER: &str = "DIAI_TEST_KEY_FILE_FOLDER";

#[test]
fn the_second_process_of_the_test_below() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let disk = FsDisk::open(folder).unwrap();
    assert!(matches!(open(&disk, None), Err(KeyFileError::Locked)));
}

#[test]
fn a_second_process_on_the_same_folder_is_told_so_and_the_file_is_for_its_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FsDisk::open(folder.path()).unwrap();
    let file = open(&disk, None).unwrap();
    let bytes = read(&disk);

    let second = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_second_process_of_the_test_below"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stdout);
    assert!(second.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(read(&disk), bytes);

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.path().join(KeyFile::PATH)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    drop(file);
    assert!(open(&disk, None).is_ok());
}
