//! Records of an MCAP file: their fields, and those that follow each other in a buffer.

use std::path::Path;

use bytes::Bytes;
use mcap::records::op;

use super::error::ReplayError;

/// Opcode and length in front of every record.
pub(super) const PREFIX: usize = 9;

/// Where an error lies.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub path: &'a Path,
    pub record: &'static str,
    pub offset: u64,
}

impl<'a> Place<'a> {
    pub fn of(path: &'a Path, opcode: u8, offset: u64) -> Self {
        Self { path, record: record_name(opcode), offset }
    }

    pub fn corrupt(&self, reason: impl Into<String>) -> ReplayError {
        ReplayError::Corrupt { path: self.path.into(), record: self.record, offset: self.offset, reason: reason.into() }
    }

    pub fn truncated(&self) -> ReplayError {
        ReplayError::Truncated { path: self.path.into(), record: self.record, offset: self.offset }
    }
}

pub(super) struct RawMessage {
    pub channel: u16,
    pub log_time: u64,
    /// Shares the memory of the chunk that it came in.
    pub data: Bytes,
}

impl RawMessage {
    /// Reads the body of a message record.
    pub fn read(body: &Bytes, place: &Place) -> Result<Self, ReplayError> {
        let mut fields = Fields { rest: body, place };
        let (channel, _sequence, log_time) = (fields.u16()?, fields.u32()?, fields.u64()?);
        let _publish_time = fields.u64()?;
        Ok(Self { channel, log_time, data: body.slice_ref(fields.rest) })
    }
}

/// Gives opcode, body and offset in the buffer of every record to `visit`. `place` is where the buffer came from.
pub(super) fn each_record(
    buffer: &Bytes,
    place: &Place,
    mut visit: impl FnMut(u8, Bytes, usize) -> Result<(), ReplayError>,
) -> Result<(), ReplayError> {
    let mut fields = Fields { rest: buffer, place };
    while !fields.rest.is_empty() {
        let offset = buffer.len() - fields.rest.len();
        let (opcode, length) = (fields.u8()?, fields.u64()?);
        let left = fields.rest.len();
        let body = usize::try_from(length).ok().filter(|length| *length <= left).ok_or_else(|| {
            let name = record_name(opcode);
            place.corrupt(format!("the {name} at its byte {offset} claims {length} bytes and {left} are left"))
        })?;
        visit(opcode, buffer.slice_ref(fields.bytes(body)?), offset)?;
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
pub(super) struct Fields<'a, 'p> {
    pub rest: &'a [u8],
    pub place: &'p Place<'p>,
}

impl<'a> Fields<'a, '_> {
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], ReplayError> {
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

    pub fn u8(&mut self) -> Result<u8, ReplayError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16, ReplayError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, ReplayError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, ReplayError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn string(&mut self) -> Result<String, ReplayError> {
        let length = self.u32()? as usize;
        String::from_utf8(self.bytes(length)?.to_vec()).map_err(|_| self.place.corrupt("a string is not UTF-8"))
    }
}
