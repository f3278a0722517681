use cid::Cid;
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::{
    Kind, MAX_DEPTH, PREFETCH, ReadError,
    frontier::Frontier,
    hamt::{Place, Shard, murmur3},
    read::unixfs_node,
};
use crate::{BlockSource, dag_pb::Link};

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderEntry {
    /// Its name, as its maker wrote it: it may be anything.
    pub name: String,
    /// What it leads to.
    pub cid: Cid,
    /// Bytes of all blocks below it, as its maker says: a hint.
    pub tsize: u64,
}

impl From<Link> for FolderEntry {
    fn from(link: Link) -> Self {
        Self { name: link.name, cid: link.cid, tsize: link.tsize }
    }
}

/// The entries of the folder `cid`, sharded or not, in the order of its blocks. After an error nothing more comes.
pub fn list<'a>(
    source: &'a dyn BlockSource,
    cid: Cid,
) -> impl Stream<Item = Result<FolderEntry, ReadError>> + Send + 'a {
    list_from(source, cid, None).map_ok(FolderEntry::from)
}

/// The entries of the folder `cid`, or of a shard at `place` in it.
pub(super) fn list_from<'a>(
    source: &'a dyn BlockSource,
    cid: Cid,
    place: Option<Place>,
) -> impl Stream<Item = Result<Link, ReadError>> + Send + 'a {
    let mut frontier = Frontier::new(source, PREFETCH);
    frontier.push_front([(cid, place)].into_iter());
    let groups = stream::try_unfold(frontier, |mut frontier| async move {
        let Some((cid, place, fetched)) = frontier.next().await else { return Ok(None) };
        let (node, unixfs) = unixfs_node(cid, &fetched?)?;
        let links = match (unixfs.kind, place) {
            (Kind::Folder, None) => node.links,
            (Kind::Shard, place) => {
                let malformed = |what| ReadError::Malformed { cid, what };
                let shard = Shard::check(node, &unixfs).map_err(malformed)?;
                let (mut nested, mut named) = (Vec::new(), Vec::new());
                for (_, link, below) in shard.slots(place.unwrap_or_default()).map_err(malformed)? {
                    match below {
                        Some(place) => nested.push((link.cid, Some(place))),
                        None => named.push(link),
                    }
                }
                frontier.push_front(nested.into_iter());
                named
            }
            _ => return Err(ReadError::NotAFolder { cid }),
        };
        Ok(Some((stream::iter(links.into_iter().map(Ok)), frontier)))
    });
    groups.flat_map(|group| match group {
        Ok(entries) => entries.left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    })
}

impl From<FolderEntry> for Link {
    fn from(entry: FolderEntry) -> Self {
        Self { name: entry.name, cid: entry.cid, tsize: entry.tsize }
    }
}

/// All entries of the folder `cid`, at most `max`, sorted by name. Two of one name are an error.
pub async fn entries(source: &dyn BlockSource, cid: Cid, max: usize) -> Result<Vec<FolderEntry>, ReadError> {
    let mut found = Vec::new();
    let mut listing = std::pin::pin!(list(source, cid));
    while let Some(entry) = listing.next().await {
        if found.len() == max {
            return Err(ReadError::OverLimit { cid, what: "entries", limit: max as u64 });
        }
        found.push(entry?);
    }
    found.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    if found.array_windows().any(|[a, b]: &[FolderEntry; 2]| a.name == b.name) {
        return Err(ReadError::Malformed { cid, what: "two entries of the folder have one name" });
    }
    Ok(found)
}

/// The entry `name` of the folder `cid`; reads one block, of a sharded folder one a level.
pub async fn lookup(source: &dyn BlockSource, cid: Cid, name: &str) -> Result<FolderEntry, ReadError> {
    let missing = || ReadError::NoEntry { folder: cid, name: name.to_owned() };
    let hash = murmur3(name.as_bytes());
    let mut at = cid;
    for level in 0.. {
        let (node, unixfs) = unixfs_node(at, &source.block(at).await?)?;
        match (unixfs.kind, level) {
            (Kind::Folder, 0) => {
                let entry = node.links.into_iter().find(|link| link.name == name);
                return entry.map(FolderEntry::from).ok_or_else(missing);
            }
            (Kind::Shard, _) => {
                let shard = Shard::check(node, &unixfs).map_err(|what| ReadError::Malformed { cid: at, what })?;
                let place = shard.place(hash, level).ok_or_else(missing)?;
                let link = shard.links.iter().find(|link| link.name.starts_with(&place)).ok_or_else(missing)?;
                match &link.name[shard.prefix..] {
                    "" => at = link.cid,
                    found if found == name => {
                        return Ok(FolderEntry { name: name.to_owned(), cid: link.cid, tsize: link.tsize });
                    }
                    _ => return Err(missing()),
                }
            }
            _ => return Err(ReadError::NotAFolder { cid: at }),
        }
    }
    Err(missing())
}

/// What `path`, `/`-separated, leads to from `root`. Empty parts are passed over; `.` and `..` are names like others.
/// Symbolic links are not followed.
pub async fn resolve(source: &dyn BlockSource, root: Cid, path: &str) -> Result<Cid, ReadError> {
    let mut at = root;
    for (depth, name) in path.split('/').filter(|name| !name.is_empty()).enumerate() {
        if depth == MAX_DEPTH {
            return Err(ReadError::OverLimit { cid: root, what: "folders in a path", limit: MAX_DEPTH as u64 });
        }
        at = lookup(source, at, name).await?.cid;
    }
    Ok(at)
}
