//! One MCAP file: where its chunks and messages lie, and the records inside a chunk.
//!
//! Lengths in the file are claims. Each is held against the file's size (or [`LARGEST_CHUNK`] after decompression) before anything is
//! allocated for it. <https://mcap.dev/spec>

use std::{
    collections::BTreeMap,
    fs::File,
    io::ErrorKind,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use mcap::{
    MAGIC,
    records::op,
    sans_io::{LinearReadEvent, LinearReader, LinearReaderOptions},
};

use super::error::ReplayError;

/// Uncompressed bytes of a chunk that are accepted. rosbag2 makes chunks of less than 5 MB.
const LARGEST_CHUNK: u64 = 256 << 20;
/// Opcode and length in front of every record.
const PREFIX: u64 = 9;
/// Channel, sequence number, log time and publish time in front of a message's data.
const MESSAGE_HEADER: usize = 22;

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

/// A chunk, or a message outside of chunks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    /// Offset of the record and length of its body.
    pub offset: u64,
    length: u64,
    chunked: bool,
    /// Log times of the first and last message.
    pub start: u64,
    pub end: u64,
}

pub(super) struct RawMessage {
    pub channel: u16,
    pub log_time: u64,
    pub data: Vec<u8>,
}

/// Where an error lies.
struct Place<'a> {
    path: &'a Path,
    record: &'static str,
    offset: u64,
}

impl Place<'_> {
    fn corrupt(&self, reason: impl Into<String>) -> ReplayError {
        ReplayError::Corrupt { path: self.path.into(), record: self.record, offset: self.offset, reason: reason.into() }
    }

    fn truncated(&self) -> ReplayError {
        ReplayError::Truncated { path: self.path.into(), record: self.record, offset: self.offset }
    }
}

/// Schemas and channels as their records define them.
#[derive(Default)]
struct Definitions {
    schemas: BTreeMap<u16, (String, String, String)>,
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
    /// Opens a file and walks over its records without unpacking chunks.
    pub fn open(path: &Path) -> Result<Self, ReplayError> {
        let io = |source| ReplayError::Io { path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        let size = file.metadata().map_err(io)?.len();
        let mut mcap =
            Self { path: path.into(), file, size, channels: BTreeMap::new(), blocks: Vec::new(), counts: BTreeMap::new() };
        mcap.expect_magic(0)?;

        let mut definitions = Definitions::default();
        let mut loose = BTreeMap::<u16, u64>::new();
        let mut statistics = None;
        let mut offset = MAGIC.len() as u64;
        loop {
            let (opcode, length) = mcap.record_prefix(offset)?;
            let place = mcap.place(opcode, offset);
            match opcode {
                op::HEADER => mcap.check_profile(&mcap.body(&place, length)?, &place)?,
                op::SCHEMA | op::CHANNEL => definitions.define(opcode, &mcap.body(&place, length)?, &place)?,
                op::MESSAGE => {
                    let header = mcap.body(&place, length.min(MESSAGE_HEADER as u64))?;
                    let mut fields = Fields { rest: &header, place: &place };
                    let (channel, _sequence, log_time) = (fields.u16()?, fields.u32()?, fields.u64()?);
                    *loose.entry(channel).or_default() += 1;
                    mcap.blocks.push(Block { offset, length, chunked: false, start: log_time, end: log_time });
                }
                op::CHUNK => {
                    let header = mcap.body(&place, length.min(16))?;
                    let mut fields = Fields { rest: &header, place: &place };
                    let (start, end) = (fields.u64()?, fields.u64()?);
                    mcap.blocks.push(Block { offset, length, chunked: true, start, end });
                }
                op::STATISTICS => statistics = Some(read_statistics(&mcap.body(&place, length)?, &place)?),
                op::FOOTER => {
                    mcap.expect_magic(offset + PREFIX + length)?;
                    break;
                }
                _ => {}
            }
            offset += PREFIX + length;
        }
        mcap.channels = definitions.channels;
        match statistics {
            Some(counts) if !mcap.channels.is_empty() => mcap.counts = counts,
            // A file without a summary: what the chunks hold can only be told by looking into each.
            _ => mcap.survey(loose)?,
        }
        Ok(mcap)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The messages of a block in file order.
    pub fn read(&self, block: &Block) -> Result<Vec<RawMessage>, ReplayError> {
        let place = self.place(if block.chunked { op::CHUNK } else { op::MESSAGE }, block.offset);
        let body = self.body(&place, block.length)?;
        if !block.chunked {
            return Ok(vec![read_message(&body, &place)?]);
        }
        let mut messages = Vec::new();
        read_chunk(&body, &place, |opcode, record| {
            if opcode == op::MESSAGE {
                let message = read_message(record, &place)?;
                if !(block.start..=block.end).contains(&message.log_time) {
                    let reason = format!(
                        "a message has log time {} and the chunk says {} to {}",
                        message.log_time, block.start, block.end
                    );
                    return Err(place.corrupt(reason));
                }
                messages.push(message);
            }
            Ok(())
        })?;
        Ok(messages)
    }

    /// Finds channels and counts messages by unpacking every chunk; `counts` has the messages outside of chunks.
    fn survey(&mut self, mut counts: BTreeMap<u16, u64>) -> Result<(), ReplayError> {
        let mut definitions = Definitions { schemas: BTreeMap::new(), channels: std::mem::take(&mut self.channels) };
        for block in self.blocks.iter().filter(|block| block.chunked) {
            let place = self.place(op::CHUNK, block.offset);
            read_chunk(&self.body(&place, block.length)?, &place, |opcode, record| {
                if opcode == op::MESSAGE {
                    *counts.entry(Fields { rest: record, place: &place }.u16()?).or_default() += 1;
                }
                definitions.define(opcode, record, &place)
            })?;
        }
        self.channels = definitions.channels;
        self.counts = counts;
        Ok(())
    }

    fn place(&self, opcode: u8, offset: u64) -> Place<'_> {
        Place { path: &self.path, record: record_name(opcode), offset }
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
        let left = self.size.saturating_sub(offset);
        if left < PREFIX {
            return Err(Place { path: &self.path, record: "records", offset }.truncated());
        }
        let place = Place { path: &self.path, record: "records", offset };
        let prefix = self.bytes(&place, offset, PREFIX)?;
        let mut fields = Fields { rest: &prefix, place: &place };
        let (opcode, length) = (fields.u8()?, fields.u64()?);
        if length > left - PREFIX {
            return Err(self.place(opcode, offset).truncated());
        }
        Ok((opcode, length))
    }

    /// The first `length` bytes of a record's body.
    fn body(&self, place: &Place, length: u64) -> Result<Vec<u8>, ReplayError> {
        self.bytes(place, place.offset + PREFIX, length)
    }

    /// `length` bytes, which the caller has held against the file's size.
    fn bytes(&self, place: &Place, offset: u64, length: u64) -> Result<Vec<u8>, ReplayError> {
        let length = usize::try_from(length).map_err(|_| place.corrupt("it is larger than the address space"))?;
        let mut bytes = vec![0; length];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            // Somebody shortened the file after it was opened.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(place.truncated()),
            Err(source) => Err(ReplayError::Io { path: self.path.clone(), source }),
        }
    }
}

fn read_message(body: &[u8], place: &Place) -> Result<RawMessage, ReplayError> {
    let mut fields = Fields { rest: body, place };
    let (channel, _sequence, log_time) = (fields.u16()?, fields.u32()?, fields.u64()?);
    let _publish_time = fields.u64()?;
    Ok(RawMessage { channel, log_time, data: fields.rest.to_vec() })
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

/// Unpacks the body of a chunk record, checks its checksum when it has one, and gives each record inside to `visit`.
fn read_chunk(
    body: &[u8],
    place: &Place,
    mut visit: impl FnMut(u8, &[u8]) -> Result<(), ReplayError>,
) -> Result<(), ReplayError> {
    let mut fields = Fields { rest: body, place };
    let (_start, _end, unpacked, _crc) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u32()?);
    fields.string()?;
    let packed = fields.u64()?;
    if packed != fields.rest.len() as u64 {
        return Err(place.corrupt(format!("{packed} compressed bytes are announced and {} are there", fields.rest.len())));
    }
    if unpacked > LARGEST_CHUNK {
        return Err(place.corrupt(format!("{unpacked} uncompressed bytes are announced; at most {LARGEST_CHUNK} are accepted")));
    }
    // Within `body.len()` or LARGEST_CHUNK, and so within the address space.
    let limit = body.len().max(unpacked as usize);
    let mut reader = LinearReader::new_with_options(
        LinearReaderOptions::default()
            .with_skip_start_magic(true)
            .with_skip_end_magic(true)
            .with_prevalidate_chunk_crcs(true)
            .with_record_length_limit(limit),
    );
    let mut prefix = [0; PREFIX as usize];
    prefix[0] = op::CHUNK;
    prefix[1..].copy_from_slice(&(body.len() as u64).to_le_bytes());
    let mut inputs = [&prefix[..], body].into_iter();
    let mut input: &[u8] = &[];
    while let Some(event) = reader.next_event() {
        match event.map_err(|error| place.corrupt(error.to_string()))? {
            LinearReadEvent::Record { data, opcode } => visit(opcode, data)?,
            LinearReadEvent::ReadRequest(wanted) => {
                if input.is_empty() {
                    input = inputs.next().unwrap_or_default();
                }
                let (now, later) = input.split_at(wanted.min(input.len()));
                reader.insert(now.len()).copy_from_slice(now);
                reader.notify_read(now.len());
                input = later;
            }
        }
    }
    Ok(())
}

fn record_name(opcode: u8) -> &'static str {
    match opcode {
        op::HEADER => "header record",
        op::FOOTER => "footer record",
        op::SCHEMA => "schema record",
        op::CHANNEL => "channel record",
        op::MESSAGE => "message record",
        op::CHUNK => "chunk record",
        op::MESSAGE_INDEX => "message index record",
        op::CHUNK_INDEX => "chunk index record",
        op::STATISTICS => "statistics record",
        op::METADATA => "metadata record",
        op::ATTACHMENT => "attachment record",
        op::DATA_END => "data end record",
        _ => "record of another kind",
    }
}

/// Little-endian fields of a record, read from the front.
struct Fields<'a, 'p> {
    rest: &'a [u8],
    place: &'p Place<'p>,
}

impl<'a> Fields<'a, '_> {
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], ReplayError> {
        let (bytes, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| self.place.corrupt("a field is longer than the record"))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReplayError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, ReplayError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, ReplayError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, ReplayError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ReplayError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<String, ReplayError> {
        let length = self.u32()? as usize;
        String::from_utf8(self.bytes(length)?.to_vec()).map_err(|_| self.place.corrupt("a string is not UTF-8"))
    }
}
