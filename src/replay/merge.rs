//! The messages of a bag's files in log-time order, with a bound on what is held in memory.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    io,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use bytes::Bytes;

use super::{
    chunk::Unpacker,
    error::ReplayError,
    mcap_file::{Block, McapFile},
    records::RawMessage,
    sqlite_file::{RowMessage, Rows, SqliteFile},
};

/// Threads that unpack ahead. Each holds up to three blocks: one at hand, one waiting, one being unpacked.
const AHEAD: usize = 2;
/// Larger blocks are not unpacked ahead.
const LARGEST_AHEAD: u64 = 16 << 20;
/// Bytes of unpacked blocks that may be waiting for their turn, because they overlap in time.
const MOST_HELD: u64 = 128 << 20;

/// A message as it lies in a storage file.
pub(super) struct StoredMessage {
    /// Index of the file.
    pub file: usize,
    /// Id of the MCAP channel or of the SQLite topic.
    pub channel: i64,
    pub log_time: u64,
    /// Offset of the MCAP block or number of the SQLite row.
    pub place: i64,
    pub data: Bytes,
}

/// Merges the blocks of MCAP files.
pub(super) struct BlockMerge {
    blocks: Ahead,
    pending: BinaryHeap<Reverse<Pending>>,
    /// Messages left and bytes of each block that is not used up.
    held: BTreeMap<(usize, u64), (usize, u64)>,
    damage: Option<ReplayError>,
}

struct Pending {
    /// Log time, then file, block and place in the block.
    order: (u64, usize, u64, usize),
    message: RawMessage,
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

impl BlockMerge {
    pub fn new(files: &Arc<Vec<McapFile>>) -> Self {
        Self { blocks: Ahead::new(Arc::clone(files)), pending: BinaryHeap::new(), held: BTreeMap::new(), damage: None }
    }

    /// The next message. Behind the last one comes the damage that ended the reading, if there was one.
    pub fn next(&mut self) -> Result<Option<StoredMessage>, ReplayError> {
        // A block may hold earlier messages than those at hand as long as it begins no later.
        while let Some((file, block)) = self.blocks.peek()
            && self.pending.peek().is_none_or(|Reverse(next)| block.start <= next.order.0)
        {
            if let Err(damage) = self.take(file, block) {
                self.blocks.end();
                self.damage = Some(damage);
            }
        }
        let Some(Reverse(Pending { order: (log_time, file, offset, _), message })) = self.pending.pop() else {
            return self.damage.take().map_or(Ok(None), Err);
        };
        if let Some((left, _)) = self.held.get_mut(&(file, offset)) {
            *left -= 1;
            if *left == 0 {
                self.held.remove(&(file, offset));
            }
        }
        // Offsets are below the sizes of files, which are signed 64-bit numbers.
        let place = offset as i64;
        Ok(Some(StoredMessage { file, channel: message.channel.into(), log_time, place, data: message.data }))
    }

    fn take(&mut self, file: usize, block: Block) -> Result<(), ReplayError> {
        let held: u64 = self.held.values().map(|(_, bytes)| bytes).sum();
        if held > MOST_HELD {
            let what = format!("chunks of {held} bytes overlap in time; `mcap sort` puts them in order");
            return Err(ReplayError::Unsupported { path: self.blocks.files[file].path().into(), what });
        }
        let messages = self.blocks.next()?;
        if !messages.is_empty() {
            self.held.insert((file, block.offset), (messages.len(), block.unpacked));
        }
        let order = |index, log_time| (log_time, file, block.offset, index);
        let numbered = messages.into_iter().enumerate();
        self.pending.extend(numbered.map(|(index, message)| Reverse(Pending { order: order(index, message.log_time), message })));
        Ok(())
    }
}

/// Reads blocks in the order of their start times, the next ones on threads of their own.
struct Ahead {
    files: Arc<Vec<McapFile>>,
    /// File and block, the earliest first.
    blocks: Arc<Vec<(usize, Block)>>,
    next: usize,
    /// The thread at index `i` of `n` reads the blocks `i`, `i + n`, `i + 2n`, ...
    threads: Vec<Receiver<Result<Vec<RawMessage>, ReplayError>>>,
}

impl Ahead {
    fn new(files: Arc<Vec<McapFile>>) -> Self {
        let of_file = |(file, mcap): (usize, &McapFile)| mcap.blocks.iter().map(move |block| (file, *block)).collect::<Vec<_>>();
        let mut blocks: Vec<_> = files.iter().enumerate().flat_map(of_file).collect();
        blocks.sort_by_key(|(file, block)| (block.start, *file, block.offset));
        let mut ahead = Self { files, blocks: Arc::new(blocks), next: 0, threads: Vec::new() };
        if ahead.blocks.len() > AHEAD && ahead.blocks.iter().all(|(_, block)| block.unpacked <= LARGEST_AHEAD) {
            ahead.threads = (0..AHEAD).map(|thread| ahead.start(thread)).collect();
        }
        ahead
    }

    fn start(&self, first: usize) -> Receiver<Result<Vec<RawMessage>, ReplayError>> {
        let (sender, receiver) = sync_channel(1);
        let (files, blocks) = (Arc::clone(&self.files), Arc::clone(&self.blocks));
        let work = move || {
            let mut unpacker = None;
            for (file, block) in blocks.iter().skip(first).step_by(AHEAD) {
                // Nobody listens any more once the iterator is dropped.
                if sender.send(read(&files[*file], block, &mut unpacker)).is_err() {
                    return;
                }
            }
        };
        // Without a thread the receiver is disconnected, and the blocks are read where they are needed.
        let _ = thread::Builder::new().name("bag reader".into()).spawn(work);
        receiver
    }

    fn peek(&self) -> Option<(usize, Block)> {
        self.blocks.get(self.next).copied()
    }

    /// Reads no further.
    fn end(&mut self) {
        self.next = self.blocks.len();
        self.threads.clear();
    }

    /// The messages of the block that [`Ahead::peek`] shows.
    fn next(&mut self) -> Result<Vec<RawMessage>, ReplayError> {
        let Some((file, block)) = self.peek() else { return Ok(Vec::new()) };
        let thread = self.threads.get(self.next % AHEAD);
        self.next += 1;
        match thread.map(Receiver::recv) {
            Some(Ok(messages)) => messages,
            _ => read(&self.files[file], &block, &mut None),
        }
    }
}

fn read(file: &McapFile, block: &Block, unpacker: &mut Option<Unpacker>) -> Result<Vec<RawMessage>, ReplayError> {
    let unpacker = match unpacker {
        Some(unpacker) => unpacker,
        none => none.insert(new_unpacker(file.path())?),
    };
    file.read(block, unpacker)
}

pub(super) fn new_unpacker(path: &Path) -> Result<Unpacker, ReplayError> {
    Unpacker::new().map_err(|source: io::Error| ReplayError::Io { path: path.into(), source })
}

/// Merges the rows of SQLite files.
pub(super) struct RowMerge {
    files: Vec<Rows>,
    /// The next message of each file.
    next: Vec<Option<RowMessage>>,
    damage: Option<ReplayError>,
}

impl RowMerge {
    pub fn new(files: &[SqliteFile]) -> Result<Self, ReplayError> {
        let files = files.iter().map(SqliteFile::rows).collect::<Result<Vec<_>, _>>()?;
        let mut merge = Self { next: files.iter().map(|_| None).collect(), files, damage: None };
        for file in 0..merge.files.len() {
            merge.pull(file);
        }
        Ok(merge)
    }

    fn pull(&mut self, file: usize) {
        // Behind a damage only those messages follow that are at hand.
        if self.damage.is_some() {
            self.next[file] = None;
            return;
        }
        match self.files[file].next() {
            Ok(message) => self.next[file] = message,
            Err(damage) => {
                self.next[file] = None;
                self.damage = Some(damage);
            }
        }
    }

    /// The next message. Behind the last one comes the damage that ended the reading, if there was one.
    pub fn next(&mut self) -> Result<Option<StoredMessage>, ReplayError> {
        let heads = self.next.iter().enumerate();
        let first = heads.filter_map(|(file, next)| next.as_ref().map(|next| (next.log_time, file))).min();
        let Some(message) = first.and_then(|(_, file)| Some((file, self.next[file].take()?))) else {
            return self.damage.take().map_or(Ok(None), Err);
        };
        let (file, RowMessage { row, topic, log_time, data }) = message;
        self.pull(file);
        Ok(Some(StoredMessage { file, channel: topic, log_time, place: row, data }))
    }
}
