//! Unpacks the chunks of an MCAP file and the messages of a bag that is compressed message by message.
//!
//! The size after decompression is a claim. Memory is taken for it as far as earlier data have shown that such sizes occur in this bag;
//! otherwise it grows with what really comes out.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use zstd::bulk::Decompressor;

use super::{
    error::ReplayError,
    records::{Fields, Place},
};

/// Uncompressed bytes of a chunk or message that are accepted. rosbag2 makes chunks of less than 5 MB, or of one message that is larger.
pub(super) const LARGEST_CHUNK: u64 = 64 << 20;
/// Capacity beyond the packed size at the first try.
const FIRST_GUESS: usize = 64 << 10;

/// Buffers that are kept for the next chunks: fresh memory costs more than filling it.
const SPARE: usize = 4;

/// Decompresses one buffer after another.
pub(super) struct Unpacker {
    zstd: Decompressor<'static>,
    /// Buffers that were handed out; those that nobody else holds any more are used again.
    spare: Vec<Bytes>,
    /// The largest buffer so far.
    largest: usize,
    /// Packed bytes, as they were read.
    pub packed: Vec<u8>,
}

impl Unpacker {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: Decompressor::new()?, spare: Vec::new(), largest: 0, packed: Vec::new() })
    }

    /// The records inside a packed chunk, whose body this is.
    pub fn chunk(&mut self, body: &[u8], place: &Place) -> Result<Bytes, ReplayError> {
        let chunk = Chunk::read(body, place)?;
        let records = match chunk.compression.as_str() {
            "zstd" => self.zstd(chunk.records, accepted(chunk.size, place)?).map_err(|error| place.corrupt(error))?,
            "lz4" => self.lz4(chunk.records, accepted(chunk.size, place)?).map_err(|error| place.corrupt(error))?,
            other => return Err(place.corrupt(format!("its compression {other:?} is neither zstd, lz4 nor none"))),
        };
        chunk.check(&records, place)?;
        Ok(records)
    }

    /// Decompresses zstd frames, which must not hold more than `limit` bytes.
    pub fn zstd(&mut self, packed: &[u8], limit: usize) -> Result<Bytes, String> {
        let mut buffer = self.buffer(self.guess(packed, limit));
        loop {
            match self.zstd.decompress_to_buffer(packed, &mut buffer[..]) {
                Ok(length) => return Ok(self.hand_out(buffer, length)),
                // There is more than was guessed, and at least this much.
                Err(error) if buffer.len() < limit && error.to_string().contains(TOO_SMALL) => {
                    buffer.resize((2 * buffer.len()).min(limit), 0);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Decompresses an lz4 frame, which must not hold more than `limit` bytes.
    fn lz4(&mut self, packed: &[u8], limit: usize) -> Result<Bytes, String> {
        let mut buffer = self.buffer(self.guess(packed, limit));
        let mut frame = lz4::Decoder::new(packed).map_err(|error| error.to_string())?;
        let mut length = 0;
        loop {
            if length == buffer.len() && length < limit {
                buffer.resize((2 * length).min(limit), 0);
            }
            match frame.read(&mut buffer[length..]).map_err(|error| error.to_string())? {
                0 => return Ok(self.hand_out(buffer, length)),
                read => length += read,
            }
        }
    }

    fn guess(&self, packed: &[u8], limit: usize) -> usize {
        self.largest.max(packed.len() + FIRST_GUESS).min(limit)
    }

    fn buffer(&mut self, length: usize) -> BytesMut {
        let free = self.spare.iter().position(Bytes::is_unique).map(|free| self.spare.swap_remove(free));
        let mut buffer = free.and_then(|free| free.try_into_mut().ok()).unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    fn hand_out(&mut self, buffer: BytesMut, length: usize) -> Bytes {
        self.largest = self.largest.max(length);
        let buffer = buffer.freeze();
        if self.spare.len() == SPARE {
            self.spare.swap_remove(0);
        }
        let unpacked = buffer.slice(..length);
        self.spare.push(buffer);
        unpacked
    }
}

/// The records inside a chunk that is not packed, whose body this is. They share its memory.
pub(super) fn plain_chunk(body: &Bytes, place: &Place) -> Result<Bytes, ReplayError> {
    let chunk = Chunk::read(body, place)?;
    chunk.check(chunk.records, place)?;
    Ok(body.slice_ref(chunk.records))
}

/// The fields of a chunk record.
struct Chunk<'a> {
    /// Bytes of the records after decompression.
    size: u64,
    /// Zero when there is none.
    checksum: u32,
    compression: String,
    records: &'a [u8],
}

impl<'a> Chunk<'a> {
    fn read(body: &'a [u8], place: &Place) -> Result<Self, ReplayError> {
        let mut fields = Fields { rest: body, place };
        let (_start, _end, size, checksum) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u32()?);
        let compression = fields.string()?;
        let packed = fields.u64()?;
        if packed != fields.rest.len() as u64 {
            return Err(place.corrupt(format!("{packed} compressed bytes are announced and {} are there", fields.rest.len())));
        }
        Ok(Self { size, checksum, compression, records: fields.rest })
    }

    fn check(&self, records: &[u8], place: &Place) -> Result<(), ReplayError> {
        if records.len() as u64 != self.size {
            return Err(place.corrupt(format!("{} uncompressed bytes are announced and {} are there", self.size, records.len())));
        }
        if self.checksum != 0 && crc32fast::hash(records) != self.checksum {
            return Err(place.corrupt("its checksum does not match"));
        }
        Ok(())
    }
}

/// What zstd says of an output buffer that is too small.
const TOO_SMALL: &str = "Destination buffer is too small";

fn accepted(size: u64, place: &Place) -> Result<usize, ReplayError> {
    if size > LARGEST_CHUNK {
        return Err(place.corrupt(format!("{size} uncompressed bytes are announced; at most {LARGEST_CHUNK} are accepted")));
    }
    // At most LARGEST_CHUNK, and so within the address space.
    Ok(size as usize)
}
