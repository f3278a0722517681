//! A folder that changes: what is added, replaced and removed gives the folder that a fresh import of the same entries
//! would give, and of a sharded one only the shards on the way are read and made.

use std::collections::{BTreeMap, btree_map};

use cid::Cid;
use diai_core::FileAttributes;
use futures::TryStreamExt;

use super::{
    Folder, FolderEntry, ImportError, Kind, Profile, ReadError, UpdateError, build_folder_with,
    folder::{Size, check_entry},
    hamt::{Place, Shape, Shard, murmur3},
    list::list_from,
    read::unixfs_node,
};
use crate::{Block, BlockSource, dag_pb::Link};

/// A change of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This entry is added, or takes the place of the one of its name.
    Put(FolderEntry),
    /// The entry of this name is removed; it must be there.
    Remove(String),
}

/// Carries `changes`, one after the other, out on the folder `folder`, and returns what it then is: the same as
/// [`build_folder_with`](super::build_folder_with) makes of all its entries and its attributes, if `profile` made it. A
/// folder that grows over the threshold is sharded, one that shrinks under it is not any more. Of a folder that another
/// profile made the whole is read and made anew, if the profiles' CIDs or shards differ.
///
/// The new blocks are returned, not stored. Reads one block for each shard on the way, which are fetched one by one; when
/// the folder shrinks, also as many as hold the entries that would fit under the threshold.
pub async fn update_folder(
    source: &dyn BlockSource,
    folder: Cid,
    changes: Vec<Change>,
    profile: &Profile,
) -> Result<Folder, UpdateError> {
    profile.check()?;
    let (node, unixfs) = unixfs_node(folder, &source.block(folder).await.map_err(ReadError::from)?)?;
    let attributes = unixfs.attributes();
    match unixfs.kind {
        Kind::Folder => rebuild(folder, node.links, changes, attributes, profile),
        Kind::Shard => {
            let root = Shard::check(node, &unixfs).map_err(|what| ReadError::Malformed { cid: folder, what })?;
            if root.fanout != profile.fanout || folder.version() != profile.cid_version {
                let links = list_from(source, folder, None).try_collect().await?;
                return rebuild(folder, links, changes, attributes, profile);
            }
            let slots = slots(folder, root, Place::default())?;
            Update { source, folder, shape: Shape::of(profile), size: Size::of(attributes, profile), grown: 0 }
                .carry_out(slots, changes, attributes, profile)
                .await
        }
        _ => Err(ReadError::NotAFolder { cid: folder }.into()),
    }
}

/// From all its entries.
fn rebuild(
    folder: Cid,
    links: Vec<Link>,
    changes: Vec<Change>,
    attributes: FileAttributes,
    profile: &Profile,
) -> Result<Folder, UpdateError> {
    let count = links.len();
    let mut entries: BTreeMap<String, Link> = links.into_iter().map(|link| (link.name.clone(), link)).collect();
    if entries.len() != count {
        return Err(ReadError::Malformed { cid: folder, what: "two entries of the folder have one name" }.into());
    }
    for change in changes {
        match change {
            Change::Put(entry) => drop(entries.insert(entry.name.clone(), entry.into())),
            Change::Remove(name) if entries.remove(&name).is_none() => {
                return Err(ReadError::NoEntry { folder, name }.into());
            }
            Change::Remove(_) => {}
        }
    }
    Ok(build_folder_with(entries.into_values().collect(), attributes, profile)?)
}

/// A shard, with what of it was read.
type Slots = BTreeMap<usize, Slot>;

enum Slot {
    Entry(Link),
    /// A shard below that was not read.
    Far(Link, Place),
    Near(Slots),
}

fn slots(cid: Cid, shard: Shard, place: Place) -> Result<Slots, ReadError> {
    let slots = shard.slots(place).map_err(|what| ReadError::Malformed { cid, what })?;
    let slot = |(index, link, place): (usize, Link, Option<Place>)| {
        (index, place.map_or_else(|| Slot::Entry(link.clone()), |place| Slot::Far(link.clone(), place)))
    };
    Ok(slots.into_iter().map(slot).collect())
}

struct Update<'a> {
    source: &'a dyn BlockSource,
    folder: Cid,
    shape: Shape,
    size: Size,
    /// How much the folder has grown, as its profile counts.
    grown: i64,
}

impl Update<'_> {
    async fn carry_out(
        mut self,
        mut root: Slots,
        changes: Vec<Change>,
        attributes: FileAttributes,
        profile: &Profile,
    ) -> Result<Folder, UpdateError> {
        for change in changes {
            match change {
                Change::Put(entry) => self.put(&mut root, entry.into()).await?,
                Change::Remove(name) => self.remove(&mut root, name).await?,
            }
        }
        if self.grown < 0
            && let Some(entries) = self.all_if_under(&root, profile.shard_over_bytes).await?
        {
            return Ok(build_folder_with(entries, attributes, profile)?);
        }
        let mut blocks = Vec::new();
        let root = self.make(root, attributes, &mut blocks)?;
        Ok(Folder { root: root.cid, tsize: root.tsize, blocks })
    }

    async fn put(&mut self, root: &mut Slots, entry: Link) -> Result<(), UpdateError> {
        check_entry(&entry)?;
        let hash = murmur3(entry.name.as_bytes());
        self.grown += self.size.entry(&entry) as i64;
        let (mut slots, mut level) = (root, 0);
        loop {
            let index = self.index(hash, level, &entry.name)?;
            let slot = match slots.entry(index) {
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(Slot::Entry(entry));
                    return Ok(());
                }
                btree_map::Entry::Occupied(slot) => slot.into_mut(),
            };
            if let Slot::Entry(there) = slot {
                if there.name == entry.name {
                    self.grown -= self.size.entry(there) as i64;
                    *there = entry;
                    return Ok(());
                }
                // Two names of one place: a shard takes it, in which they stand apart, or again in one place.
                let below = self.index(murmur3(there.name.as_bytes()), level + 1, &entry.name)?;
                *slot = Slot::Near(BTreeMap::from([(below, Slot::Entry(there.clone()))]));
            }
            (slots, level) = (self.near(slot).await?, level + 1);
        }
    }

    async fn remove(&mut self, root: &mut Slots, name: String) -> Result<(), UpdateError> {
        let hash = murmur3(name.as_bytes());
        let (mut slots, mut level) = (root, 0);
        loop {
            let index = self.index(hash, level, &name)?;
            match slots.entry(index) {
                btree_map::Entry::Occupied(slot) if !matches!(slot.get(), Slot::Entry(_)) => {
                    (slots, level) = (self.near(slot.into_mut()).await?, level + 1);
                }
                btree_map::Entry::Occupied(slot) if matches!(slot.get(), Slot::Entry(link) if link.name == name) => {
                    if let Slot::Entry(link) = slot.remove() {
                        self.grown -= self.size.entry(&link) as i64;
                    }
                    return Ok(());
                }
                _ => return Err(ReadError::NoEntry { folder: self.folder, name }.into()),
            }
        }
    }

    fn index(&self, hash: u64, level: usize, name: &str) -> Result<usize, UpdateError> {
        let deep = || ImportError::Collision { first: name.to_owned(), second: "another name".to_owned() };
        Ok(self.shape.index(hash, level).ok_or_else(deep)?)
    }

    /// The shard in `slot`, which is no entry, read if it was not.
    async fn near<'s>(&self, slot: &'s mut Slot) -> Result<&'s mut Slots, UpdateError> {
        if let Slot::Far(link, place) = slot {
            *slot = Slot::Near(self.read(link.cid, *place).await?);
        }
        match slot {
            Slot::Near(slots) => Ok(slots),
            _ => Err(ReadError::NotAFolder { cid: self.folder }.into()),
        }
    }

    async fn read(&self, cid: Cid, place: Place) -> Result<Slots, UpdateError> {
        let (node, unixfs) = unixfs_node(cid, &self.source.block(cid).await.map_err(ReadError::from)?)?;
        let malformed = |what| ReadError::Malformed { cid, what };
        let shard = match unixfs.kind {
            Kind::Shard => Shard::check(node, &unixfs).map_err(malformed)?,
            _ => return Err(ReadError::NotAFolder { cid }.into()),
        };
        if shard.fanout != self.shape.fanout() {
            return Err(malformed("the shards of a folder differ in width").into());
        }
        Ok(slots(cid, shard, place)?)
    }

    /// Every entry, if they are no more than fit a folder that is not sharded.
    async fn all_if_under(&self, root: &Slots, limit: usize) -> Result<Option<Vec<Link>>, UpdateError> {
        let (mut entries, mut bytes) = (Vec::new(), self.size.empty);
        let (mut near, mut far) = (vec![root], Vec::new());
        let mut fits = |link: Link, entries: &mut Vec<Link>| {
            bytes = bytes.saturating_add(self.size.entry(&link));
            entries.push(link);
            bytes <= limit
        };
        while let Some(slots) = near.pop() {
            for slot in slots.values() {
                match slot {
                    Slot::Entry(link) if !fits(link.clone(), &mut entries) => return Ok(None),
                    Slot::Entry(_) => {}
                    Slot::Far(link, place) => far.push((link.cid, *place)),
                    Slot::Near(slots) => near.push(slots),
                }
            }
        }
        for (cid, place) in far {
            let mut listing = std::pin::pin!(list_from(self.source, cid, Some(place)));
            while let Some(link) = listing.try_next().await? {
                if !fits(link, &mut entries) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(entries))
    }

    /// The shard of `slots`; calls itself once a level. A shard below that has but one entry, or none, is none.
    fn make(
        &self,
        slots: Slots,
        attributes: FileAttributes,
        blocks: &mut Vec<Block>,
    ) -> Result<super::tree::Child, UpdateError> {
        let mut links = Vec::new();
        for (index, slot) in slots {
            match slot {
                Slot::Entry(link) | Slot::Far(link, _) => links.push((index, link)),
                Slot::Near(below) => {
                    if let Some(link) = self.below(below, blocks)? {
                        links.push((index, link));
                    }
                }
            }
        }
        let (child, block) = self.shape.node(links, attributes)?;
        blocks.push(block);
        Ok(child)
    }

    fn below(&self, mut slots: Slots, blocks: &mut Vec<Block>) -> Result<Option<Link>, UpdateError> {
        // From the bottom up: what is below may have become an entry.
        let near: Vec<usize> =
            slots.iter().filter(|(_, slot)| matches!(slot, Slot::Near(_))).map(|(at, _)| *at).collect();
        for index in near {
            if let Some(Slot::Near(below)) = slots.remove(&index)
                && let Some(link) = self.below(below, blocks)?
            {
                let slot = if link.name.is_empty() { Slot::Far(link, Place::default()) } else { Slot::Entry(link) };
                slots.insert(index, slot);
            }
        }
        match slots.first_key_value() {
            None => return Ok(None),
            Some((_, Slot::Entry(link))) if slots.len() == 1 => return Ok(Some(link.clone())),
            Some(_) => {}
        }
        let child = self.make(slots, FileAttributes::default(), blocks)?;
        Ok(Some(Link { cid: child.cid, name: String::new(), tsize: child.tsize }))
    }
}
