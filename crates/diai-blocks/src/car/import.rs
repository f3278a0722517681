use std::{io, sync::Arc};

use cid::Cid;
use diai_core::{BoxFuture, Disk, OffloadError, OpenMode, offload};
use futures::{
    AsyncRead, FutureExt, StreamExt, TryStreamExt,
    stream::{self, FuturesOrdered},
};

use super::{
    ImportError, ImportFailed, MAX_REFUSED, Progress, ProgressFn, Refused, SectionError, Version,
    sections::{Content, Section, Sections},
};
use crate::{Block, BlockError, BlockStore, Guard, dag_pb::MAX_CID_BYTES};

/// Sections of so many bytes,
const BATCH_BYTES: usize = 1 << 20;
/// or so many sections, are hashed by one worker at a time.
const BATCH_SECTIONS: usize = 256;
/// Blocks are put in groups of so many bytes,
const GROUP_BYTES: usize = 4 << 20;
/// or of so many blocks.
const GROUP_BLOCKS: usize = 1024;
/// What is read of a file at once.
const READ_BYTES: u64 = 1 << 20;

/// How to import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// A file of more bytes of blocks is refused; what came until then is kept. Default 1 TiB.
    pub max_bytes: u64,
    /// Batches of about 1 MiB that are hashed at a time; memory is about as many times 3 MiB at worst, and 6 MiB. Zero
    /// stands for 8. Default 0.
    pub parallel: usize,
    /// Told after each group of blocks, on the importing task.
    pub progress: Option<ProgressFn>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { max_bytes: 1 << 40, parallel: 0, progress: None }
    }
}

/// What came out of a CAR file. Keep it until its roots are pinned: while it lives, its blocks are not collected.
#[derive(Debug)]
pub struct Imported {
    version: Version,
    roots: Vec<Cid>,
    done: Progress,
    refused: Vec<Refused>,
    refused_count: u64,
    _guard: Guard,
}

impl Imported {
    /// The form of the file.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The roots that the file names, as it names them: their blocks need not be in it, nor anywhere.
    pub fn roots(&self) -> &[Cid] {
        &self.roots
    }

    /// What is stored now of what the file holds.
    pub fn done(&self) -> Progress {
        self.done
    }

    /// The first sections that were passed over as faulty, at most [`MAX_REFUSED`].
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// How many were.
    pub fn refused_count(&self) -> u64 {
        self.refused_count
    }
}

/// Stores the blocks of the CAR file that `reader` yields, each checked against its CID. Readable when it returns,
/// durable after [`BlockStore::flush`]. Blocks whose CID holds them are checked and count as held.
///
/// Faulty sections are passed over as long as the next one can be found, and all that is valid is stored: also when
/// this returns an error, which has it ([`ImportFailed::kept`]).
///
/// Cancel-safety: dropping the future stops it; what was put until then is garbage.
pub async fn import(
    blocks: &BlockStore,
    reader: impl AsyncRead + Unpin,
    options: &ImportOptions,
) -> Result<Imported, ImportFailed> {
    let mut importer = Importer::new(blocks, options);
    let mut sections = Sections::new(reader);
    let read = importer.read(&mut sections).await;
    // What came before a fault of the file is as good as without it; after one of the store it is not tried again.
    let outcome = match read {
        Err(error @ (ImportError::Put(_) | ImportError::Closed)) => Err(error),
        read => importer.settle_all().await.and(read),
    };
    importer.finish(sections.version, sections.roots, outcome)
}

/// The same for the file at `path` of `disk`.
pub async fn import_path(
    blocks: &BlockStore,
    disk: Arc<dyn Disk>,
    path: &str,
    options: &ImportOptions,
) -> Result<Imported, ImportFailed> {
    let (pool, path) = (blocks.offload().clone(), path.to_owned());
    let open = move || {
        let file = disk.open(&path, OpenMode::Read)?;
        let bytes = file.len()?;
        Ok::<_, io::Error>((file, bytes))
    };
    let opened = offload(&*pool, open).await.map_err(|_| ImportError::Closed);
    let (file, bytes) = match opened.and_then(|opened| Ok(opened?)) {
        Ok(opened) => opened,
        Err(error) => return Importer::new(blocks, options).finish(Version::V1, Vec::new(), Err(error)),
    };
    let read = |offset: u64| {
        let (pool, file) = (pool.clone(), file.clone());
        async move {
            let read = move || {
                let mut data = vec![0; READ_BYTES.min(bytes - offset) as usize];
                let read = file.read_at(offset, &mut data)?;
                data.truncate(read);
                Ok(data)
            };
            offload(&*pool, read).await.map_err(io::Error::other)?
        }
    };
    let offsets = (0..bytes.div_ceil(READ_BYTES)).map(|index| index * READ_BYTES);
    let reader = stream::iter(offsets.map(read)).buffered(2).boxed().into_async_read();
    import(blocks, reader, options).await
}

type Checked = Vec<Result<Block, Refused>>;

struct Importer<'a> {
    blocks: &'a BlockStore,
    options: &'a ImportOptions,
    parallel: usize,
    batch: Vec<Section>,
    batch_bytes: usize,
    checking: FuturesOrdered<BoxFuture<'static, Result<Checked, OffloadError>>>,
    group: Vec<Block>,
    group_bytes: usize,
    /// Bytes of all blocks that were found valid.
    valid_bytes: u64,
    done: Progress,
    refused: Vec<Refused>,
    refused_count: u64,
    guard: Guard,
}

impl<'a> Importer<'a> {
    fn new(blocks: &'a BlockStore, options: &'a ImportOptions) -> Self {
        Self {
            blocks,
            options,
            parallel: if options.parallel == 0 { 8 } else { options.parallel.min(256) },
            batch: Vec::new(),
            batch_bytes: 0,
            checking: FuturesOrdered::new(),
            group: Vec::new(),
            group_bytes: 0,
            valid_bytes: 0,
            done: Progress::default(),
            refused: Vec::new(),
            refused_count: 0,
            guard: blocks.guard(),
        }
    }

    fn finish(
        self,
        version: Version,
        roots: Vec<Cid>,
        outcome: Result<(), ImportError>,
    ) -> Result<Imported, ImportFailed> {
        let (first, count) = (self.refused.first().cloned(), self.refused_count);
        let imported = Imported {
            version,
            roots,
            done: self.done,
            refused: self.refused,
            refused_count: self.refused_count,
            _guard: self.guard,
        };
        let error = match (outcome, first) {
            (Ok(()), None) => return Ok(imported),
            (Ok(()), Some(first)) => ImportError::Refused { count, first },
            (Err(error), _) => error,
        };
        Err(ImportFailed { error, kept: Box::new(imported) })
    }

    async fn read<R: AsyncRead + Unpin>(&mut self, sections: &mut Sections<R>) -> Result<(), ImportError> {
        sections.begin().await?;
        while let Some(section) = sections.next().await? {
            self.batch_bytes += match &section.content {
                Content::Whole(bytes) => bytes.len(),
                Content::TooLong(start, _) => start.len(),
            };
            self.batch.push(section);
            if self.batch_bytes >= BATCH_BYTES || self.batch.len() == BATCH_SECTIONS {
                self.check_batch();
            }
            while self.checking.len() >= self.parallel {
                self.settle_next().await?;
            }
        }
        Ok(())
    }

    fn check_batch(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let pool = self.blocks.offload().clone();
        let check = async move { offload(&*pool, move || batch.into_iter().map(check).collect()).await };
        self.checking.push_back(check.boxed());
    }

    async fn settle_all(&mut self) -> Result<(), ImportError> {
        self.check_batch();
        while !self.checking.is_empty() {
            self.settle_next().await?;
        }
        self.put_group().await
    }

    async fn settle_next(&mut self) -> Result<(), ImportError> {
        let Some(checked) = self.checking.next().await else { return Ok(()) };
        for outcome in checked.map_err(|_| ImportError::Closed)? {
            match outcome {
                Ok(block) => self.valid(block).await?,
                Err(refused) => {
                    self.refused_count += 1;
                    if self.refused.len() < MAX_REFUSED {
                        self.refused.push(refused);
                    }
                }
            }
        }
        Ok(())
    }

    async fn valid(&mut self, block: Block) -> Result<(), ImportError> {
        self.valid_bytes += block.data.len() as u64;
        if self.valid_bytes > self.options.max_bytes {
            return Err(ImportError::OverLimit { limit: self.options.max_bytes });
        }
        if self.blocks.touch(&block.cid) {
            self.done.blocks += 1;
            self.done.held_blocks += 1;
            self.done.bytes += block.data.len() as u64;
            return Ok(());
        }
        self.group_bytes += block.data.len();
        self.group.push(block);
        if self.group_bytes >= GROUP_BYTES || self.group.len() == GROUP_BLOCKS {
            self.put_group().await
        } else {
            Ok(())
        }
    }

    async fn put_group(&mut self) -> Result<(), ImportError> {
        let (group, bytes) = (std::mem::take(&mut self.group), std::mem::take(&mut self.group_bytes));
        let blocks = group.len();
        self.blocks.put_many(group).await?;
        self.done.blocks += blocks as u64;
        self.done.bytes += bytes as u64;
        if let Some(progress) = &self.options.progress {
            progress.tell(self.done);
        }
        Ok(())
    }
}

fn check(section: Section) -> Result<Block, Refused> {
    let offset = section.offset;
    let block = match &section.content {
        Content::Whole(bytes) => {
            split(bytes).and_then(|(cid, length)| Ok(Block::verified(cid, bytes.slice(length..))?))
        }
        Content::TooLong(start, bytes) => split(start).and_then(|(_, length)| {
            let bytes = usize::try_from(*bytes).unwrap_or(usize::MAX) - length;
            Err(BlockError::TooLarge { bytes }.into())
        }),
    };
    block.map_err(|reason| Refused { offset, reason })
}

/// The CID that a section begins with, and its length.
fn split(bytes: &[u8]) -> Result<(Cid, usize), SectionError> {
    let mut rest = bytes;
    let cid = Cid::read_bytes(&mut rest).map_err(|_| SectionError::Cid)?;
    let length = bytes.len() - rest.len();
    if length > MAX_CID_BYTES { Err(SectionError::Cid) } else { Ok((cid, length)) }
}
