//! UnixFS: files and folders as DAGs of blocks, with the CIDs that other IPFS implementations give them.
//!
//! [`import_path`] and [`import_reader`] make blocks of files, folders and symbolic links; [`build_folder`] makes a
//! folder of what is imported already, and [`update_folder`] another of one that is there; [`read`], [`list`], [`resolve`] and [`walk`] go the other way, over any
//! [`BlockSource`](crate::BlockSource); [`export`] writes a DAG to a disk.
//!
//! Memory does not grow with the size of files: a few chunks are on their way at a time. It grows with the number of
//! entries of the largest folder, about 200 bytes each.
//!
//! Everything that is read may come from a stranger. Sizes are checked against each other while reading, depth,
//! entries and bytes are limited, and what contradicts itself is an error.

mod data;
mod error;
mod export;
mod folder;
pub(crate) mod frontier;
mod hamt;
mod import;
mod leaf;
mod list;
mod options;
mod read;
mod reader;
mod tree;
mod update;
pub(crate) mod walk;

pub use data::{DataError, Kind, UnixFs};
pub use error::{ExportError, ImportError, ReadError, UpdateError};
pub(crate) use export::check_name;
pub use export::{ExportOptions, Exported, export};
pub use folder::{Folder, build_folder, build_folder_with};
pub use import::{Imported, import_path, import_reader};
pub use list::{FolderEntry, entries, list, lookup, resolve};
pub use options::{ImportOptions, Leaves, MAX_CHUNK_BYTES, Profile, Progress, ProgressFn, ShardSize};
pub use read::{Stat, read, read_all, read_range, stat};
pub use reader::FileReader;
pub use update::{Change, update_folder};
pub use walk::{Visited, WalkOptions, links, walk};

/// Folders within folders, and nodes of one file above each other, deeper than this are refused.
pub const MAX_DEPTH: usize = 128;
/// Blocks that are fetched ahead while a DAG is read, at most 2 MiB each.
pub const PREFETCH: usize = 16;
