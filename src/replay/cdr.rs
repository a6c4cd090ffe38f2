//! CDR (XCDR1), the encoding of messages on the wire and in bags, in both byte orders.
//!
//! The `cdr` crate allocates the length that a string claims before it looks whether the bytes are there. So messages here read
//! strings as sequences ([`text`], [`texts`]), whose allocation serde bounds, and take large byte fields out of the input without copying.

use std::io::Read;

use cdr::{BigEndian, CdrLe, Infinite, LittleEndian, de::deserialize_data_from};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use super::{error::CdrError, messages::Time};

/// Bytes of the encapsulation header: representation (big endian u16) and options.
const HEADER: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum ByteOrder {
    Big,
    Little,
}

fn byte_order(bytes: &[u8]) -> Result<(ByteOrder, &[u8]), CdrError> {
    let Some((&[high, low, _, _], body)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(CdrError::NoHeader(bytes.len()));
    };
    match u16::from_be_bytes([high, low]) {
        0 => Ok((ByteOrder::Big, body)),
        1 => Ok((ByteOrder::Little, body)),
        other => Err(CdrError::Encapsulation(other)),
    }
}

/// Decodes a message. Bytes after the last field are ignored: DDS pads payloads, and later versions of a type append fields.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CdrError> {
    Ok(decode_prefix(bytes)?.0)
}

/// Decodes the leading fields of a message and gives the bytes that follow them.
fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), CdrError> {
    let (order, body) = byte_order(bytes)?;
    let mut rest = body;
    let reader: &mut dyn Read = &mut rest;
    let value = match order {
        ByteOrder::Big => deserialize_data_from::<_, T, _, BigEndian>(reader, Infinite),
        ByteOrder::Little => deserialize_data_from::<_, T, _, LittleEndian>(reader, Infinite),
    };
    let value = value.map_err(|source| CdrError::Fields { length: bytes.len(), source })?;
    Ok((value, rest))
}

/// Decodes a message whose last field is `uint8[]`: `T` ends with the length of that field, which `length` reads.
pub(super) fn decode_with_data<T: DeserializeOwned>(bytes: &[u8], length: fn(&T) -> u32) -> Result<(T, &[u8]), CdrError> {
    let (fields, rest) = decode_prefix::<T>(bytes)?;
    let claimed = length(&fields) as usize;
    let data = rest.get(..claimed).ok_or(CdrError::Data { claimed, left: rest.len() })?;
    Ok((fields, data))
}

/// Encodes a message in little endian.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CdrError> {
    cdr::serialize::<_, _, CdrLe>(message, Infinite).map_err(|source| CdrError::Fields { length: 0, source })
}

/// Writes another stamp into an encoded message that begins with a `std_msgs/Header`.
pub fn restamp(bytes: &mut [u8], stamp: Time) -> Result<(), CdrError> {
    let (order, body) = byte_order(bytes)?;
    let left = body.len();
    // The header's first field is the stamp: two 32-bit numbers, aligned because they come first.
    let field = bytes.get_mut(HEADER..HEADER + 8).ok_or(CdrError::Data { claimed: 8, left })?;
    let (sec, nanosec) = match order {
        ByteOrder::Big => (stamp.sec.to_be_bytes(), stamp.nanosec.to_be_bytes()),
        ByteOrder::Little => (stamp.sec.to_le_bytes(), stamp.nanosec.to_le_bytes()),
    };
    field[..4].copy_from_slice(&sec);
    field[4..].copy_from_slice(&nanosec);
    Ok(())
}

/// A CDR string: bytes with a terminating NUL that counts.
#[derive(Deserialize)]
struct Text(#[serde(deserialize_with = "text")] String);

/// Reads a string field, allocating no more than the input holds.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let mut bytes = Vec::<u8>::deserialize(deserializer)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(serde::de::Error::custom)
}

/// Reads a field that is a sequence of strings.
pub(super) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Text>::deserialize(deserializer)?.into_iter().map(|text| text.0).collect())
}
