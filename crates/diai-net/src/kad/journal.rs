use std::{fmt::Display, io};

use diai_core::{Disk, RecordMeta, WallTime, database};
use redb::{Database, ReadableTable, TableDefinition};

use super::{keeper::Change, store::Kept};

const FOLDER: &str = "net";
const PATH: &str = "net/records.redb";
const CACHE_BYTES: usize = 1 << 20;
/// Key to `expires ms (8) | seq (8) | own (1) | value`, numbers in big-endian.
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const HEAD_BYTES: usize = 17;

/// The records on disk. All calls block.
pub(crate) struct Journal(Database);

impl Journal {
    /// Opens the journal and reads what it holds; what has expired by `now` is removed.
    pub(crate) fn open(disk: &dyn Disk, now: WallTime) -> io::Result<(Self, Vec<Kept>)> {
        disk.create_folder(FOLDER)?;
        let journal = Self(database::open(disk, PATH, CACHE_BYTES).map_err(failed)?);
        let records = journal.read(now)?;
        Ok((journal, records))
    }

    fn read(&self, now: WallTime) -> io::Result<Vec<Kept>> {
        let transaction = self.0.begin_write().map_err(failed)?;
        let mut records = Vec::new();
        {
            // Opened for writing, so that a new database has the table.
            let mut table = transaction.open_table(RECORDS).map_err(failed)?;
            let mut useless = Vec::new();
            for entry in table.iter().map_err(failed)? {
                let (key, value) = entry.map_err(failed)?;
                match decode(key.value(), value.value()) {
                    Some(kept) if kept.meta.expires > now => records.push(kept),
                    _ => useless.push(key.value().to_vec()),
                }
            }
            for key in useless {
                table.remove(key.as_slice()).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)?;
        Ok(records)
    }

    /// Writes all of `changes` or nothing.
    pub(crate) fn write(&self, changes: &[Change]) -> io::Result<()> {
        let transaction = self.0.begin_write().map_err(failed)?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(failed)?;
            for (key, kept) in changes {
                match kept {
                    Some(kept) => drop(table.insert(key.as_slice(), encode(kept).as_slice()).map_err(failed)?),
                    None => drop(table.remove(key.as_slice()).map_err(failed)?),
                }
            }
        }
        transaction.commit().map_err(failed)
    }
}

fn failed(error: impl Display) -> io::Error {
    io::Error::other(format!("{PATH}: {error}"))
}

fn encode(kept: &Kept) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + kept.value.len());
    bytes.extend_from_slice(&kept.meta.expires.as_unix_ms().to_be_bytes());
    bytes.extend_from_slice(&kept.meta.seq.to_be_bytes());
    bytes.push(u8::from(kept.own));
    bytes.extend_from_slice(&kept.value);
    bytes
}

fn decode(key: &[u8], bytes: &[u8]) -> Option<Kept> {
    let (expires, rest) = bytes.split_first_chunk()?;
    let (seq, rest) = rest.split_first_chunk()?;
    let (own, value) = rest.split_first()?;
    let meta =
        RecordMeta { seq: u64::from_be_bytes(*seq), expires: WallTime::from_unix_ms(u64::from_be_bytes(*expires)) };
    Some(Kept { key: key.to_vec(), value: value.to_vec(), meta, own: *own != 0 })
}
