//! The key file: where an agent's root and device keys rest, encrypted under a passphrase or plain, and the lock that
//! lets only one process use them.
//!
//! All functions block, and with a passphrase they burn a core for a good tenth of a second: call them through
//! [`diai_core::offload`].
//!
//! ```
//! use diai_core::os::{FsDisk, OsClock, OsEntropy};
//! use diai_identity::key_file::{KeyFile, KeyFileError};
//!
//! # let folder = tempfile::tempdir()?;
//! let disk = FsDisk::open(folder.path())?;
//! let file = KeyFile::open_or_create(&disk, &OsClock::new(), &OsEntropy, None)?;
//! let agent = file.identity().agent();
//!
//! let second = KeyFile::open_or_create(&disk, &OsClock::new(), &OsEntropy, None);
//! assert!(matches!(second, Err(KeyFileError::Locked)));
//!
//! drop(file); // gives the lock back
//! let file = KeyFile::open_or_create(&disk, &OsClock::new(), &OsEntropy, None)?;
//! assert_eq!(file.identity().agent(), agent);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Format
//! `"diai-key"`, version 1, kind (0 plain, 1 encrypted), content, SHA-256 of all before it. The content is the root's
//! seed, the device's seed, the X25519 secret (32 bytes each) and the certificate. When encrypted (XChaCha20-Poly1305,
//! everything before the ciphertext authenticated), the Argon2id cost (KiB, passes, lanes, each u32 little-endian), the
//! salt (16 bytes) and the nonce (24 bytes) stand before it. The hash tells a damaged file from a wrong passphrase; it
//! proves nothing.

mod format;

use std::{fmt, io};

use diai_core::{Clock, Disk, DiskLock, Entropy, OpenMode, WallTime, write_atomically};

use crate::Identity;
use format::{Protection, Secrets};

/// An open key file: an unlocked [`Identity`], and the lock that keeps other processes out until it is dropped.
pub struct KeyFile {
    identity: Identity,
    protection: Protection,
    created: bool,
    _lock: DiskLock,
}

impl KeyFile {
    /// Where the key file lies on the disk.
    pub const PATH: &str = "identity.key";
    /// The lock of the whole data folder.
    pub const LOCK_PATH: &str = "lock";
    /// The longest key file in bytes.
    pub const MAX_BYTES: usize = 4096;

    /// Opens the key file, or makes a new agent if there is none: encrypted with a passphrase, plain without. A
    /// certificate that [is due](crate::Certificate::is_due) is renewed and stored.
    ///
    /// An error changes nothing in the key file. New files get [`Cost::default`].
    pub fn open_or_create(
        disk: &dyn Disk,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
        passphrase: Option<&str>,
    ) -> Result<Self, KeyFileError> {
        Self::open_or_create_with_cost(disk, clock, entropy, passphrase, Cost::default())
    }

    /// The same, but a new encrypted file gets `cost`. A file that is there keeps its own.
    pub fn open_or_create_with_cost(
        disk: &dyn Disk,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
        passphrase: Option<&str>,
        cost: Cost,
    ) -> Result<Self, KeyFileError> {
        if passphrase.is_some_and(str::is_empty) {
            return Err(KeyFileError::EmptyPassphrase);
        }
        let lock = disk.lock(Self::LOCK_PATH).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => KeyFileError::Locked,
            _ => KeyFileError::io("lock the data folder", error),
        })?;
        match read(disk)? {
            Some(bytes) => Self::open(disk, lock, &bytes, clock.wall(), entropy, passphrase),
            None => Self::create(disk, lock, clock.wall(), entropy, passphrase, cost),
        }
    }

    fn open(
        disk: &dyn Disk,
        lock: DiskLock,
        bytes: &[u8],
        now: WallTime,
        entropy: &dyn Entropy,
        passphrase: Option<&str>,
    ) -> Result<Self, KeyFileError> {
        let (secrets, protection) = format::decode(bytes, passphrase)?;
        let (identity, renewed) = secrets.into_identity(now)?;
        let file = Self { identity, protection, created: false, _lock: lock };
        if renewed {
            file.save(disk, entropy)?;
        }
        Ok(file)
    }

    fn create(
        disk: &dyn Disk,
        lock: DiskLock,
        now: WallTime,
        entropy: &dyn Entropy,
        passphrase: Option<&str>,
        cost: Cost,
    ) -> Result<Self, KeyFileError> {
        let protection = match passphrase {
            Some(passphrase) => Protection::new(passphrase, cost, entropy)?,
            None => Protection::Plain,
        };
        let file = Self { identity: Identity::generate(entropy, now), protection, created: true, _lock: lock };
        file.save(disk, entropy)?;
        Ok(file)
    }

    /// The unlocked identity. Clones of it live on when the key file is dropped, but without the lock: keep the file.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Whether the agent was made just now, because there was no key file.
    pub fn is_new(&self) -> bool {
        self.created
    }

    /// Whether the file is encrypted under a passphrase.
    pub fn is_encrypted(&self) -> bool {
        !matches!(self.protection, Protection::Plain)
    }

    /// Stores the identity with its current certificate, in the same form and under the same passphrase as before:
    /// after [`Identity::renew_certificate`]. `disk` is the one that the file was opened on. A crash leaves the old file
    /// or the new one whole.
    pub fn save(&self, disk: &dyn Disk, entropy: &dyn Entropy) -> Result<(), KeyFileError> {
        let secrets = Secrets::of(&self.identity).expect("a key file's identity has its root key here");
        let bytes = format::encode(&secrets, &self.protection, entropy);
        write_atomically(disk, Self::PATH, &bytes).map_err(|error| KeyFileError::io("write the key file", error))
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile")
            .field("identity", &self.identity)
            .field("encrypted", &self.is_encrypted())
            .finish_non_exhaustive()
    }
}

/// The whole key file; `None` if there is none.
fn read(disk: &dyn Disk) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, KeyFileError> {
    let failed = |error| KeyFileError::io("read the key file", error);
    let file = match disk.open(KeyFile::PATH, OpenMode::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(failed)?,
    };
    let length = usize::try_from(file.len().map_err(failed)?).unwrap_or(usize::MAX);
    if length > KeyFile::MAX_BYTES {
        return Err(KeyFileError::Damaged { reason: "it is too long" });
    }
    let mut bytes = zeroize::Zeroizing::new(vec![0; length]);
    file.read_exact_at(0, &mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

/// What it costs to try a passphrase (Argon2id).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB, at least 8 for each lane. Default 65,536 (64 MiB).
    pub memory_kib: u32,
    /// Passes over the memory. Default 3.
    pub passes: u32,
    /// Lanes; they are filled one after the other. Default 1.
    pub lanes: u32,
}

impl Cost {
    /// The most that is accepted, from a file too: 1 GiB, 10 passes, 16 lanes.
    pub const MAX: Self = Self { memory_kib: 1024 * 1024, passes: 10, lanes: 16 };
}

impl Default for Cost {
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

/// Why a key file cannot be used. None of them changes it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Another process, or another [`KeyFile`] of this one, uses the data folder.
    #[error("the data folder is in use by another process; stop that one, or give this one a folder of its own")]
    Locked,
    /// The file is encrypted and no passphrase was given.
    #[error("{} is encrypted; give its passphrase", KeyFile::PATH)]
    PassphraseNeeded,
    /// The passphrase is not the one that the file was encrypted under.
    #[error("wrong passphrase for {}", KeyFile::PATH)]
    WrongPassphrase,
    /// A passphrase was given for a file that is not encrypted.
    #[error("{} is not encrypted, but a passphrase was given; open it without one", KeyFile::PATH)]
    NotEncrypted,
    /// The passphrase is empty.
    #[error("the passphrase is empty; give a longer one, or none at all for a plain key file")]
    EmptyPassphrase,
    /// The file is not what was written.
    #[error("{} is damaged ({reason}); restore it from a copy", KeyFile::PATH)]
    Damaged {
        /// What was noticed.
        reason: &'static str,
    },
    /// The file's format is not known, so it is from a newer version, or damaged.
    #[error("{} has format {version}, which this version cannot read; use a newer one", KeyFile::PATH)]
    UnknownFormat {
        /// The number found.
        version: u8,
    },
    /// The cost is outside of what is accepted.
    #[error("the Argon2id cost {cost:?} is not accepted: at least 8 KiB a lane and one pass, at most {:?}", Cost::MAX)]
    Cost {
        /// The cost asked for, or found in the file.
        cost: Cost,
    },
    /// The disk failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the disk said.
        source: io::Error,
    },
}

impl KeyFileError {
    fn io(doing: &'static str, source: io::Error) -> Self {
        Self::Io { doing, source }
    }
}
