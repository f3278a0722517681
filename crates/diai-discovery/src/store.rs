use std::sync::Arc;

use bytes::Bytes;
use diai_core::{Disk, PeerId, WallTime, World, database, offload};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::{Config, SignedRecord, StartError, record::verify_of};

const FOLDER: &str = "discovery";
pub(crate) const PATH: &str = "discovery/agents.redb";
/// PeerId to signed record.
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// What this device must not forget: [`SEQ`].
const OWN: TableDefinition<'_, &str, u64> = TableDefinition::new("own");
/// The highest seq that this device has signed.
const SEQ: &str = "seq";

/// The index on disk. A cache, but for the last seq.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Database>);

/// What the disk knew.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) seq: u64,
    pub(crate) records: Vec<SignedRecord>,
    /// Devices whose record no longer holds.
    pub(crate) gone: Vec<PeerId>,
}

impl Store {
    /// Opens the database and verifies every record in it, off the thread.
    pub(crate) async fn open(world: &World, config: &Config) -> Result<(Self, Loaded), StartError> {
        let failed = |reason: String| StartError::Store { path: PATH, reason };
        let (disk, now, cache) = (world.disk.clone(), world.clock.wall(), config.database_cache_bytes);
        let opened = offload(&*world.offload, move || open(&*disk, cache, now)).await;
        let (store, loaded) =
            opened.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        Ok((store, loaded))
    }

    /// Remembers that `seq` is taken; durable when it returns.
    pub(crate) async fn set_seq(&self, world: &World, seq: u64) -> Result<(), String> {
        let database = self.0.clone();
        offload(&*world.offload, move || write_seq(&database, seq))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    /// Writes what changed, in one commit; durable when it returns.
    pub(crate) async fn write(&self, world: &World, changes: Vec<(PeerId, Option<Bytes>)>) -> Result<(), String> {
        let database = self.0.clone();
        offload(&*world.offload, move || write(&database, &changes))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }
}

fn open(disk: &dyn Disk, cache_bytes: usize, now: WallTime) -> Result<(Store, Loaded), redb::Error> {
    disk.create_folder(FOLDER).map_err(redb::Error::Io)?;
    let database = database::open(disk, PATH, cache_bytes)?;
    let transaction = database.begin_write()?;
    transaction.open_table(RECORDS)?;
    transaction.open_table(OWN)?;
    transaction.commit()?;
    let mut loaded = Loaded::default();
    let transaction = database.begin_read()?;
    loaded.seq = transaction.open_table(OWN)?.get(SEQ)?.map_or(0, |seq| seq.value());
    for row in transaction.open_table(RECORDS)?.iter()? {
        let (peer, record) = row?;
        let Ok(peer) = PeerId::from_bytes(peer.value()) else { continue };
        match verify_of(peer, Bytes::copy_from_slice(record.value()), now) {
            Ok(record) => loaded.records.push(record),
            Err(_) => loaded.gone.push(peer),
        }
    }
    Ok((Store(Arc::new(database)), loaded))
}

fn write_seq(database: &Database, seq: u64) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(OWN)?.insert(SEQ, seq)?;
    Ok(transaction.commit()?)
}

fn write(database: &Database, changes: &[(PeerId, Option<Bytes>)]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for (peer, record) in changes {
            let key = peer.to_bytes();
            match record {
                Some(record) => records.insert(&*key, &**record)?,
                None => records.remove(&*key)?,
            };
        }
    }
    Ok(transaction.commit()?)
}
