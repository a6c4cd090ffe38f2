//! Unpacks the chunks of an MCAP file and the messages of a bag that is compressed message by message.
//!
//! The size after decompression is a claim. Memory is taken for it as far as earlier data have shown that such sizes occur in this bag;
//! otherwise it grows with what really comes out.

use std::io::Read;

use bytes::Bytes;
use zstd::bulk::Decompressor;

use super::{
    error::ReplayError,
    records::{Fields, Place},
};

/// Uncompressed bytes of a chunk or message that are accepted. rosbag2 makes chunks of less than 5 MB, or of one message that is larger.
pub(super) const LARGEST_CHUNK: u64 = 64 << 20;
/// Capacity beyond the packed size at the first try.
const FIRST_GUESS: usize = 64 << 10;

/// Decompresses one buffer after another.
pub(super) struct Unpacker {
    zstd: Decompressor<'static>,
    /// The largest buffer so far.
    largest: usize,
}

impl Unpacker {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: Decompressor::new()?, largest: 0 })
    }

    /// The records inside a chunk, whose body this is. Its checksum is tested when it has one.
    pub fn chunk(&mut self, body: &Bytes, place: &Place) -> Result<Bytes, ReplayError> {
        let mut fields = Fields { rest: body, place };
        let (_start, _end, size, crc) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u32()?);
        let compression = fields.string()?;
        let packed = fields.u64()?;
        if packed != fields.rest.len() as u64 {
            return Err(place.corrupt(format!("{packed} compressed bytes are announced and {} are there", fields.rest.len())));
        }
        let records = match compression.as_str() {
            "" => body.slice_ref(fields.rest),
            "zstd" => self.zstd(fields.rest, accepted(size, place)?).map_err(|error| place.corrupt(error))?,
            "lz4" => self.lz4(fields.rest, accepted(size, place)?).map_err(|error| place.corrupt(error))?,
            other => return Err(place.corrupt(format!("its compression {other:?} is neither zstd, lz4 nor none"))),
        };
        if records.len() as u64 != size {
            return Err(place.corrupt(format!("{size} uncompressed bytes are announced and {} are there", records.len())));
        }
        if crc != 0 && crc32fast::hash(&records) != crc {
            return Err(place.corrupt("its checksum does not match"));
        }
        Ok(records)
    }

    /// Decompresses zstd frames, which must not hold more than `limit` bytes.
    pub fn zstd(&mut self, packed: &[u8], limit: usize) -> Result<Bytes, String> {
        let mut capacity = self.guess(packed, limit);
        loop {
            match self.zstd.decompress(packed, capacity) {
                Ok(unpacked) => {
                    self.largest = self.largest.max(unpacked.len());
                    return Ok(unpacked.into());
                }
                // There is more than was guessed, and at least this much.
                Err(error) if capacity < limit && error.to_string().contains(TOO_SMALL) => capacity = (2 * capacity).min(limit),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn lz4(&mut self, packed: &[u8], limit: usize) -> Result<Bytes, String> {
        let mut unpacked = Vec::with_capacity(self.guess(packed, limit));
        let frame = lz4::Decoder::new(packed).map_err(|error| error.to_string())?;
        // One byte more than announced shows that there is more.
        frame.take(limit as u64 + 1).read_to_end(&mut unpacked).map_err(|error| error.to_string())?;
        self.largest = self.largest.max(unpacked.len());
        Ok(unpacked.into())
    }

    fn guess(&self, packed: &[u8], limit: usize) -> usize {
        self.largest.max(packed.len() + FIRST_GUESS).min(limit)
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
