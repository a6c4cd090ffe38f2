//! One MCAP file: where its chunks and messages lie, and the records inside a chunk.
//!
//! Lengths in the file are claims. Each is held against the file's size before anything is allocated for it; see [`super::chunk`] for
//! sizes after decompression. <https://mcap.dev/spec>

use std::{
    collections::BTreeMap,
    fs::File,
    io::ErrorKind,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use mcap::{MAGIC, records::op};

use super::{
    chunk::{Unpacker, plain_chunk},
    error::ReplayError,
    records::{Fields, PREFIX, Place, RawMessage, each_record},
};

/// Channel, sequence number, log time and publish time in front of a message's data.
const MESSAGE_HEADER: u64 = 22;
/// Start time, end time, uncompressed size, checksum and length of the compression's name in front of a chunk's other fields.
const CHUNK_HEADER: u64 = 32;
/// Messages outside of chunks that follow each other are read together up to so many bytes.
const RUN: u64 = 1 << 20;

pub(super) struct McapFile {
    path: PathBuf,
    file: File,
    size: u64,
    pub channels: BTreeMap<u16, Channel>,
    pub blocks: Vec<Block>,
    /// Messages of each channel.
    pub counts: BTreeMap<u16, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Channel {
    pub topic: String,
    pub encoding: String,
    pub type_name: String,
    pub schema_encoding: String,
    pub schema: String,
    pub offered_qos_profiles: Option<String>,
}

/// A chunk record, or a run of message records outside of chunks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// Where its first record begins.
    pub offset: u64,
    /// Bytes in the file: a chunk's body, or all records of a run.
    length: u64,
    kind: BlockKind,
    /// Log times of the first and last message.
    pub start: u64,
    pub end: u64,
    /// Bytes in memory once it is read, as the file claims.
    pub unpacked: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockKind {
    Run,
    PlainChunk,
    PackedChunk,
}

/// What the walk over the records finds besides blocks.
#[derive(Default)]
struct Walk {
    definitions: Definitions,
    /// Messages of each channel, as the summary says.
    statistics: Option<BTreeMap<u16, u64>>,
}

/// Name, encoding and text of each schema.
type Schemas = BTreeMap<u16, (String, String, String)>;

/// Schemas and channels as their records define them.
#[derive(Default)]
struct Definitions {
    schemas: Schemas,
    channels: BTreeMap<u16, Channel>,
}

impl Definitions {
    /// Reads the body of a schema or channel record; other records are none of its business.
    fn define(&mut self, opcode: u8, body: &[u8], place: &Place) -> Result<(), ReplayError> {
        let mut fields = Fields { rest: body, place };
        match opcode {
            op::SCHEMA => {
                let id = fields.u16()?;
                let (name, encoding) = (fields.string()?, fields.string()?);
                self.schemas.insert(id, (name, encoding, fields.string()?));
            }
            op::CHANNEL => {
                let (id, schema) = (fields.u16()?, fields.u16()?);
                let (topic, encoding) = (fields.string()?, fields.string()?);
                let Some((type_name, schema_encoding, schema)) = self.schemas.get(&schema).cloned() else {
                    return Err(place.corrupt(format!("channel {id} ({topic}) refers to schema {schema}, which is not defined")));
                };
                let length = fields.u32()? as usize;
                let mut map = Fields { rest: fields.bytes(length)?, place };
                let mut offered_qos_profiles = None;
                while !map.rest.is_empty() {
                    let (key, value) = (map.string()?, map.string()?);
                    if key == "offered_qos_profiles" {
                        offered_qos_profiles = Some(value);
                    }
                }
                let channel = Channel { topic, encoding, type_name, schema_encoding, schema, offered_qos_profiles };
                if let Some(other) = self.channels.insert(id, channel.clone())
                    && other != channel
                {
                    return Err(place.corrupt(format!("channel {id} is defined twice, as {} and {}", other.topic, channel.topic)));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl McapFile {
    /// Opens a file that may be damaged and walks over its records. The result has the blocks in front of the first damage that is seen,
    /// which is given too.
    ///
    /// Chunks are unpacked only when the file has no summary that tells what is in them, or when the walk meets a damage.
    pub fn open_salvaging(path: &Path) -> Result<(Self, Option<ReplayError>), ReplayError> {
        let io = |source| ReplayError::Io { path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut mcap =
            Self { path: path.into(), file, size, channels: BTreeMap::new(), blocks: Vec::new(), counts: BTreeMap::new() };
        mcap.expect_magic(0)?;
        let mut walk = Walk::default();
        let mut damage = mcap.walk(&mut walk).err();
        mcap.channels = walk.definitions.channels;
        match walk.statistics {
            Some(counts) if !mcap.channels.is_empty() && damage.is_none() => mcap.counts = counts,
            // What the chunks hold can only be told by looking into each. A damage found there lies in front of the other.
            _ => damage = mcap.survey(walk.definitions.schemas).err().or(damage),
        }
        match damage {
            Some(damage @ (ReplayError::Unsupported { .. } | ReplayError::Io { .. })) => Err(damage),
            damage => Ok((mcap, damage)),
        }
    }

    /// Notes every record from the first to the footer.
    fn walk(&mut self, walk: &mut Walk) -> Result<(), ReplayError> {
        let mut offset = MAGIC.len() as u64;
        loop {
            let (opcode, length) = self.record_prefix(offset)?;
            let place = Place::of(&self.path, opcode, offset);
            match opcode {
                op::HEADER => self.check_profile(&self.body(&place, length)?, &place)?,
                op::SCHEMA | op::CHANNEL => walk.definitions.define(opcode, &self.body(&place, length)?, &place)?,
                op::MESSAGE => {
                    let header = self.body(&place, length.min(MESSAGE_HEADER))?;
                    let message = RawMessage::read(&header, &place)?;
                    self.add_to_run(offset, PREFIX as u64 + length, message.log_time);
                }
                op::CHUNK => {
                    let header = self.body(&place, length.min(CHUNK_HEADER))?;
                    let mut fields = Fields { rest: &header, place: &place };
                    let (start, end, unpacked, _checksum) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u32()?);
                    let kind = if fields.u32()? == 0 { BlockKind::PlainChunk } else { BlockKind::PackedChunk };
                    self.blocks.push(Block { offset, length, kind, start, end, unpacked });
                }
                op::STATISTICS => walk.statistics = Some(read_statistics(&self.body(&place, length)?, &place)?),
                op::FOOTER => return self.expect_magic(offset + PREFIX as u64 + length),
                _ => {}
            }
            offset += PREFIX as u64 + length;
        }
    }

    /// Adds a message record to the run that ends where it begins, or begins one.
    fn add_to_run(&mut self, offset: u64, length: u64, log_time: u64) {
        match self.blocks.last_mut() {
            Some(run) if run.kind == BlockKind::Run && run.offset + run.length == offset && run.length + length <= RUN => {
                run.length += length;
                run.unpacked = run.length;
                (run.start, run.end) = (run.start.min(log_time), run.end.max(log_time));
            }
            _ => {
                self.blocks.push(Block { offset, length, kind: BlockKind::Run, start: log_time, end: log_time, unpacked: length })
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The messages of a block in file order.
    pub fn read(&self, block: &Block, unpacker: &mut Unpacker) -> Result<Vec<RawMessage>, ReplayError> {
        let mut messages = Vec::new();
        self.each_record_of(block, unpacker, |opcode, record, place| {
            if opcode == op::MESSAGE {
                let message = RawMessage::read(&record, place)?;
                if !(block.start..=block.end).contains(&message.log_time) {
                    let reason = format!(
                        "a message has log time {} and the chunk says {} to {}",
                        message.log_time, block.start, block.end
                    );
                    return Err(place.corrupt(reason));
                }
                check_channel(&self.channels, &message, place)?;
                messages.push(message);
            }
            Ok(())
        })?;
        Ok(messages)
    }

    fn each_record_of(
        &self,
        block: &Block,
        unpacker: &mut Unpacker,
        mut visit: impl FnMut(u8, Bytes, &Place) -> Result<(), ReplayError>,
    ) -> Result<(), ReplayError> {
        if block.kind == BlockKind::Run {
            let place = Place::of(&self.path, op::MESSAGE, block.offset);
            let records = self.bytes(&place, block.offset, block.length)?;
            return each_record(&records, &place, |opcode, record, offset| {
                visit(opcode, record, &Place { offset: block.offset + offset as u64, ..place })
            });
        }
        let place = Place::of(&self.path, op::CHUNK, block.offset);
        let records = if block.kind == BlockKind::PlainChunk {
            plain_chunk(&self.body(&place, block.length)?, &place)?
        } else {
            let mut body = std::mem::take(&mut unpacker.packed);
            body.resize(length_of(block.length, &place)?, 0);
            self.read_into(&mut body, &place, block.offset + PREFIX as u64)?;
            let records = unpacker.chunk(&body, &place);
            unpacker.packed = body;
            records?
        };
        each_record(&records, &place, |opcode, record, _| visit(opcode, record, &place))
    }

    /// Finds channels and counts messages by unpacking every chunk. Blocks from the first damaged one on are forgotten.
    fn survey(&mut self, schemas: Schemas) -> Result<(), ReplayError> {
        let mut definitions = Definitions { schemas, channels: std::mem::take(&mut self.channels) };
        let mut unpacker = Unpacker::new().map_err(|source| ReplayError::Io { path: self.path.clone(), source })?;
        let mut damage = Ok(());
        for (index, block) in self.blocks.iter().enumerate() {
            let mut counts = BTreeMap::<u16, u64>::new();
            damage = self.each_record_of(block, &mut unpacker, |opcode, record, place| {
                if opcode == op::MESSAGE {
                    let message = RawMessage::read(&record, place)?;
                    check_channel(&definitions.channels, &message, place)?;
                    *counts.entry(message.channel).or_default() += 1;
                }
                definitions.define(opcode, &record, place)
            });
            if damage.is_err() {
                self.blocks.truncate(index);
                break;
            }
            for (channel, count) in counts {
                *self.counts.entry(channel).or_default() += count;
            }
        }
        self.channels = definitions.channels;
        damage
    }

    fn check_profile(&self, body: &[u8], place: &Place) -> Result<(), ReplayError> {
        let profile = Fields { rest: body, place }.string()?;
        if profile.is_empty() || profile == "ros2" {
            return Ok(());
        }
        Err(ReplayError::Unsupported {
            path: self.path.clone(),
            what: format!("it has the MCAP profile {profile:?}, not \"ros2\""),
        })
    }

    fn expect_magic(&self, offset: u64) -> Result<(), ReplayError> {
        let place = Place { path: &self.path, record: "magic bytes", offset };
        if self.size < offset + MAGIC.len() as u64 {
            return Err(place.truncated());
        }
        let found = self.bytes(&place, offset, MAGIC.len() as u64)?;
        if found == MAGIC { Ok(()) } else { Err(place.corrupt("they are not those of an MCAP file")) }
    }

    /// Opcode and body length of the record at `offset`; the body lies within the file.
    fn record_prefix(&self, offset: u64) -> Result<(u8, u64), ReplayError> {
        let place = Place { path: &self.path, record: "records", offset };
        let left = self.size.saturating_sub(offset);
        let Some(left) = left.checked_sub(PREFIX as u64) else { return Err(place.truncated()) };
        let prefix = self.bytes(&place, offset, PREFIX as u64)?;
        let mut fields = Fields { rest: &prefix, place: &place };
        let (opcode, length) = (fields.u8()?, fields.u64()?);
        if length > left {
            return Err(Place::of(&self.path, opcode, offset).truncated());
        }
        Ok((opcode, length))
    }

    /// The first `length` bytes of a record's body.
    fn body(&self, place: &Place, length: u64) -> Result<Bytes, ReplayError> {
        self.bytes(place, place.offset + PREFIX as u64, length)
    }

    /// `length` bytes, which the caller has held against the file's size.
    fn bytes(&self, place: &Place, offset: u64, length: u64) -> Result<Bytes, ReplayError> {
        let mut bytes = vec![0; length_of(length, place)?];
        self.read_into(&mut bytes, place, offset)?;
        Ok(bytes.into())
    }

    fn read_into(&self, bytes: &mut [u8], place: &Place, offset: u64) -> Result<(), ReplayError> {
        self.file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
            // Somebody shortened the file after it was opened.
            ErrorKind::UnexpectedEof => place.truncated(),
            _ => ReplayError::Io { path: self.path.clone(), source: error },
        })
    }
}

fn length_of(length: u64, place: &Place) -> Result<usize, ReplayError> {
    usize::try_from(length).map_err(|_| place.corrupt("it is larger than the address space"))
}

fn check_channel(channels: &BTreeMap<u16, Channel>, message: &RawMessage, place: &Place) -> Result<(), ReplayError> {
    if channels.contains_key(&message.channel) {
        return Ok(());
    }
    Err(place.corrupt(format!("a message refers to channel {}, which is not defined", message.channel)))
}

/// Messages per channel.
fn read_statistics(body: &[u8], place: &Place) -> Result<BTreeMap<u16, u64>, ReplayError> {
    let mut fields = Fields { rest: body, place };
    // Message count, schemas, channels, attachments, metadata, chunks, start and end time.
    fields.bytes(8 + 2 + 4 + 4 + 4 + 4 + 8 + 8)?;
    let length = fields.u32()? as usize;
    let mut map = Fields { rest: fields.bytes(length)?, place };
    let mut counts = BTreeMap::new();
    while !map.rest.is_empty() {
        counts.insert(map.u16()?, map.u64()?);
    }
    Ok(counts)
}
