//! The database of pins: `name` to `kind u8 | cid`. Pins of before there were kinds have the CID alone, which never begins
//! with such a byte.

use cid::Cid;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Pin, PinKind, PinState};
use crate::PinError;

type Definition = TableDefinition<'static, &'static str, &'static [u8]>;

const COMPLETE: Definition = TableDefinition::new("pins");
const PENDING: Definition = TableDefinition::new("pending");
const RECURSIVE: u8 = 0x80;
const DIRECT: u8 = 0x81;

pub(super) fn prepare(database: &Database) -> Result<(), PinError> {
    let transaction = database.begin_write().map_err(boxed)?;
    transaction.open_table(COMPLETE).map_err(boxed)?;
    transaction.open_table(PENDING).map_err(boxed)?;
    Ok(transaction.commit().map_err(boxed)?)
}

pub(super) fn complete(database: &Database, name: &str, root: Cid, kind: PinKind) -> Result<(), PinError> {
    let transaction = database.begin_write().map_err(boxed)?;
    transaction.open_table(COMPLETE).map_err(boxed)?.insert(name, encode(root, kind).as_slice()).map_err(boxed)?;
    transaction.open_table(PENDING).map_err(boxed)?.remove(name).map_err(boxed)?;
    Ok(transaction.commit().map_err(boxed)?)
}

pub(super) fn begin(database: &Database, name: &str, root: Cid, kind: PinKind) -> Result<(), PinError> {
    let transaction = database.begin_write().map_err(boxed)?;
    transaction.open_table(PENDING).map_err(boxed)?.insert(name, encode(root, kind).as_slice()).map_err(boxed)?;
    Ok(transaction.commit().map_err(boxed)?)
}

/// Makes complete pins pending.
pub(super) fn suspend(database: &Database, pins: &[Pin]) -> Result<(), PinError> {
    let transaction = database.begin_write().map_err(boxed)?;
    {
        let mut complete = transaction.open_table(COMPLETE).map_err(boxed)?;
        let mut pending = transaction.open_table(PENDING).map_err(boxed)?;
        for Pin { name, root, kind, .. } in pins {
            let value = encode(*root, *kind);
            // It may have been given up or replaced meanwhile.
            let same = complete
                .get(name.as_str())
                .map_err(boxed)?
                .is_some_and(|found| decode(found.value()) == Some((*root, *kind)));
            if same {
                complete.remove(name.as_str()).map_err(boxed)?;
                pending.insert(name.as_str(), value.as_slice()).map_err(boxed)?;
            }
        }
    }
    Ok(transaction.commit().map_err(boxed)?)
}

pub(super) fn remove(database: &Database, chosen: impl Fn(&Pin) -> bool) -> Result<Vec<Pin>, PinError> {
    let mut pins = list(database)?;
    pins.retain(chosen);
    if pins.is_empty() {
        return Ok(pins);
    }
    let transaction = database.begin_write().map_err(boxed)?;
    let mut removed = Vec::new();
    {
        let mut complete = transaction.open_table(COMPLETE).map_err(boxed)?;
        let mut pending = transaction.open_table(PENDING).map_err(boxed)?;
        for pin in pins {
            let table = if pin.state == PinState::Complete { &mut complete } else { &mut pending };
            if table.remove(pin.name.as_str()).map_err(boxed)?.is_some() {
                removed.push(pin);
            }
        }
    }
    transaction.commit().map_err(boxed)?;
    Ok(removed)
}

pub(super) fn get(database: &Database, name: &str) -> Result<Option<Cid>, PinError> {
    let transaction = database.begin_read().map_err(boxed)?;
    let table = transaction.open_table(COMPLETE).map_err(boxed)?;
    let found = table.get(name).map_err(boxed)?;
    Ok(found.and_then(|value| decode(value.value())).map(|(root, _)| root))
}

pub(super) fn list(database: &Database) -> Result<Vec<Pin>, PinError> {
    let transaction = database.begin_read().map_err(boxed)?;
    let mut pins = Vec::new();
    for (definition, state) in [(COMPLETE, PinState::Complete), (PENDING, PinState::Pending)] {
        let table = transaction.open_table(definition).map_err(boxed)?;
        for entry in table.iter().map_err(boxed)? {
            let (name, value) = entry.map_err(boxed)?;
            if let Some((root, kind)) = decode(value.value()) {
                pins.push(Pin { name: name.value().to_owned(), root, kind, state });
            }
        }
    }
    pins.sort_by(|one, other| (&one.name, one.state).cmp(&(&other.name, other.state)));
    Ok(pins)
}

fn encode(root: Cid, kind: PinKind) -> Vec<u8> {
    let kind = match kind {
        PinKind::Recursive => RECURSIVE,
        PinKind::Direct => DIRECT,
    };
    [vec![kind], root.to_bytes()].concat()
}

fn decode(value: &[u8]) -> Option<(Cid, PinKind)> {
    let (kind, cid) = match value.split_first()? {
        (&RECURSIVE, cid) => (PinKind::Recursive, cid),
        (&DIRECT, cid) => (PinKind::Direct, cid),
        _ => (PinKind::Recursive, value),
    };
    Cid::try_from(cid).ok().map(|cid| (cid, kind))
}

pub(super) fn boxed(error: impl Into<redb::Error>) -> Box<redb::Error> {
    Box::new(error.into())
}
